//! Every mistake is answered with what to write instead, on the line where it was made.

use tollgate_codemode::wire::ErrorKind::{Arguments, Runtime, Syntax, UnknownTool};

use crate::support::{assert_error, error};

#[test]
fn keywords_of_a_tool() {
    assert_error(
        "x = 1\ncrm.find_customer(mail=\"x\")",
        Arguments,
        2,
        "find_customer() has no parameter 'mail'. Did you mean 'email'? Parameters: email (required), limit, class_",
    );
    assert_error(
        "crm.find_customer()",
        Arguments,
        1,
        "find_customer() needs 'email'. Parameters: email (required), limit, class_",
    );
    assert_error("crm.find_customer(\"a\", email=\"b\")", Arguments, 1, "got 'email' twice");
    assert_error("shop.order(1, 2)", Arguments, 1, "takes 1 arguments, 2 were given");
    assert_error("crm.find_customer(email=[1, len])", Arguments, 1, "'email[1]' holds a value of type function");
}

#[test]
fn names_of_servers_and_tools() {
    assert_error("\ncrmm.find(email=1)", UnknownTool, 2, "Unknown name 'crmm'. Did you mean 'crm'? Available servers: crm, shop");
    assert_error("mail.send()", UnknownTool, 1, "Unknown name 'mail'. Available servers: crm, shop");
    assert_error(
        "crm.find_custmer(email=1)",
        UnknownTool,
        1,
        "Server 'crm' has no tool 'find_custmer'. Did you mean 'find_customer'? Available tools: find_customer, notes",
    );
    assert_error("f = crm.nope", UnknownTool, 1, "Available tools: find_customer, notes");
    assert_error("total = 1\nprint(totl)", Runtime, 2, "Unknown name 'totl'. Did you mean 'total'?");
    assert!(error("crm.find_customer.x").message.contains("has no 'x'"));
}

#[test]
fn python_that_is_not_there() {
    for (source, line, hint) in [
        ("import requests", 1, "Scripts have no network"),
        ("def f():\n  yield 1", 2, "out.append(x)"),
        ("with open(\"x\") as f:\n  pass", 1, "no `with`"),
        ("@retry\nclass A:\n  pass", 1, "f = decorator(f)"),
        ("match x:\n  case 1:\n    pass", 1, "Use `if` and `elif`"),
        ("print \"x\"", 1, "print(x)"),
        ("x = \"abc", 1, "Close the string"),
        ("x = !y", 1, "Use `not x`"),
    ] {
        let found = error(source);
        assert_eq!(found.kind, Syntax, "{source}\n{found:?}");
        assert!(found.message.contains(hint), "{source}\n{}", found.message);
        assert_eq!(found.line, Some(line), "{source}\n{found:?}");
        assert!(found.column.is_some(), "{source}");
    }
}

#[test]
fn python_that_fails_as_it_runs() {
    for (source, hint) in [
        ("d = {}\nx = d[\"k\"]", "d.get("),
        ("n = 1\nx = \"a\" + n", "str(n)"),
        ("n = None\nx = n[\"a\"]", "None: check it first"),
        ("xs = [1]\nfor x in xs: xs.append(1)", "Loop over a copy"),
        ("n = 1\nint(\"x\")", "Cannot parse"),
        ("n = 1\nopen(\"/etc/passwd\")", "no files"),
        ("n = 1\nfail(\"boom\")", "boom"),
    ] {
        assert_error(source, Runtime, 2, hint);
    }
}
