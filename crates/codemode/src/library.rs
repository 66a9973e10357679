//! The virtual files of one scope: what `listToolFiles`, `readToolFile` and `getToolDocs` answer, and the catalog for the
//! sandbox. Names are settled when the library is made; texts are rendered when first read and kept.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use serde_json::Value;

use crate::language::Languages;
use crate::names::{Kind, identifiers};
use crate::plain::Plain;
use crate::search::{Index, Listed};
use crate::seen::Seen;
use crate::shape::{EFFORT, Shape};
use crate::sheet::{STUB, Sheet};
use crate::wire::{Catalog, CatalogParam, CatalogServer, CatalogTool, Language};
use crate::{docs, names, text};

/// A file longer than this is answered with its outline, and no answer is longer.
const MAX_ANSWER: usize = 32 << 10;
/// Names listed in an error.
const MAX_NAMES: usize = 20;
/// Tools that a search answers where the asker does not say, and at most. Of `make bench-tokens` nineteen searches in twenty are
/// answered by the first four, and each further signature is paid for in every prompt that follows.
const HITS: u32 = 5;
const MAX_HITS: u32 = 50;
const WORTH_A_SEARCH: usize = 40;
/// Tool names listed for a server that does not describe itself.
const NAMES_SHOWN: usize = 6;

/// How the tools of a server are spread over files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding {
    /// `servers/<server>.pyi` (or `.d.ts`) holds all tools.
    Server,
    /// `servers/<server>/<tool>.pyi` (or `.d.ts`) holds one.
    Tool,
}

#[derive(Debug, Clone)]
pub struct ServerDef {
    /// The global in a script. Made an identifier, and kept apart from builtins and other servers, where it is not already.
    pub name: String,
    pub description: Option<String>,
    pub binding: Binding,
    pub tools: Vec<ToolDef>,
}

#[derive(Debug, Clone)]
pub struct ToolDef {
    pub tool_id: String,
    /// The upstream's own name, such as `get-sum`.
    pub name: String,
    /// The tool as the upstream's `tools/list` gave it.
    pub definition: Arc<Value>,
}

/// Immutable and shared: make one per scope snapshot.
#[derive(Debug)]
pub struct Library {
    languages: Languages,
    servers: Vec<ServerDef>,
    catalog: Catalog,
    files: Vec<File>,
    by_path: HashMap<String, usize>,
    index: OnceLock<Index>,
}

#[derive(Debug)]
struct File {
    path: String,
    language: Language,
    server: usize,
    /// `None`: all tools of the server.
    tool: Option<usize>,
    text: OnceLock<String>,
}

/// Written for the model that asked: what was wrong, what is near, what there is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LibraryError {
    #[error("there is no file {asked:?}. {hint}")]
    NoFile { asked: String, hint: String },
    #[error("there is no server {asked:?}. {hint}")]
    NoServer { asked: String, hint: String },
    #[error("server {server} has no tool {asked:?}. {hint}")]
    NoTool { server: String, asked: String, hint: String },
    #[error("lines {start} to {end} are not in {path}, which has lines 1 to {lines}")]
    NoLines { path: String, start: u32, end: String, lines: usize },
}

impl Library {
    #[must_use]
    pub fn new(servers: Vec<ServerDef>) -> Self {
        Self::offering(Languages::default(), servers)
    }

    /// With stub files in each of these languages.
    #[must_use]
    pub fn offering(languages: Languages, servers: Vec<ServerDef>) -> Self {
        let raw: Vec<&str> = servers.iter().map(|s| s.name.as_str()).collect();
        let names = identifiers(&raw, Kind::Server);
        let catalog = Catalog { servers: servers.iter().zip(names).map(|(def, name)| catalog_server(def, name)).collect() };
        let files = files_of(languages, &servers, &catalog);
        let by_path = files.iter().enumerate().map(|(at, f)| (f.path.clone(), at)).collect();
        Self { languages, servers, catalog, files, by_path, index: OnceLock::new() }
    }

    /// What the sandbox needs to know: names, and the way back from them.
    #[must_use]
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Whether there is so much that a model is told of the search: below, reading a file costs less than the search's description
    /// in every prompt.
    #[must_use]
    pub fn is_large(&self) -> bool {
        self.catalog.servers.iter().map(|server| server.tools.len()).sum::<usize>() > WORTH_A_SEARCH
    }

    /// The paths of all files, in order.
    #[must_use]
    pub fn files(&self) -> Vec<String> {
        self.files.iter().map(|f| f.path.clone()).collect()
    }

    /// One line per server: where its files are, how many tools, what it is about.
    #[must_use]
    pub fn list_files(&self) -> String {
        if self.servers.is_empty() {
            return "No server is available to this key.".to_owned();
        }
        let endings: Vec<&str> = self.languages.all().map(Language::ending).collect();
        let ending = endings.join(" or ");
        let mut out = String::new();
        for (def, server) in self.servers.iter().zip(&self.catalog.servers) {
            let count = match server.tools.len() {
                1 => "1 tool".to_owned(),
                n => format!("{n} tools"),
            };
            let about = text::sentence(def.description.as_deref().unwrap_or_default(), 160);
            let line = match def.binding {
                Binding::Server if about.is_empty() => {
                    format!("servers/{}{ending}  {count}: {}", server.name, some_names(server, NAMES_SHOWN))
                }
                Binding::Server => format!("servers/{}{ending}  {count}. {about}", server.name),
                Binding::Tool => {
                    let gap = if about.is_empty() { "" } else { " " };
                    let names = some_names(server, usize::MAX);
                    format!("servers/{}/<tool>{ending}  {count}.{gap}{about} <tool> is one of: {names}", server.name)
                }
            };
            out.push_str(&line);
            if names::is_taken(&def.name) {
                out.push_str(&format!(" (`{}` itself is Python's)", def.name));
            }
            out.push('\n');
        }
        out
    }

    /// The lines of a file, counted from 1, both ends included. A file too long for one answer is answered with an outline
    /// unless lines are asked for.
    ///
    /// # Errors
    /// When no such file or line exists.
    pub fn read_file(&self, path: &str, start_line: Option<u32>, end_line: Option<u32>) -> Result<String, LibraryError> {
        let file = self.file(path)?;
        let whole = self.text(file);
        if start_line.is_none() && end_line.is_none() {
            return Ok(if whole.len() <= MAX_ANSWER { whole.to_owned() } else { outline(whole, file.language) });
        }
        let lines: Vec<&str> = whole.lines().collect();
        let start = start_line.unwrap_or(1).max(1);
        let end = end_line.unwrap_or(u32::MAX);
        let shown = lines.get(start as usize - 1..lines.len().min(end as usize)).filter(|l| !l.is_empty());
        let shown = shown.ok_or_else(|| LibraryError::NoLines {
            path: file.path.clone(),
            start,
            end: end_line.map_or_else(|| "the end".to_owned(), |l| l.to_string()),
            lines: lines.len(),
        })?;
        Ok(bounded(shown, start as usize, file.language))
    }

    /// Everything known about one tool. Both names may be the script's or the upstream's.
    ///
    /// # Errors
    /// When no such server or tool exists.
    pub fn docs(&self, server: &str, tool: &str) -> Result<String, LibraryError> {
        self.docs_seen(server, tool, None)
    }

    /// [`Self::docs`], with what results of the tool have looked like: it is told where the tool does not say so itself.
    ///
    /// # Errors
    /// As [`Self::docs`].
    pub fn docs_seen(&self, server: &str, tool: &str, seen: Option<&Seen>) -> Result<String, LibraryError> {
        let (listed, entry, def) = self.find(server, tool)?;
        Ok(docs::page(&listed.name, entry, &def.name, &def.definition, (self.languages.first(), seen)))
    }

    /// The identity of a tool by the names under which [`Self::docs`] finds it.
    ///
    /// # Errors
    /// As [`Self::docs`].
    pub fn tool_id(&self, server: &str, tool: &str) -> Result<&str, LibraryError> {
        Ok(&self.find(server, tool)?.1.tool_id)
    }

    fn find(&self, server: &str, tool: &str) -> Result<(&CatalogServer, &CatalogTool, &ToolDef), LibraryError> {
        let at = self.server_index(server)?;
        let (Some(def), Some(listed)) = (self.servers.get(at), self.catalog.servers.get(at)) else {
            return Err(self.no_server(server));
        };
        let found = listed.tools.iter().zip(&def.tools);
        let exact = found.clone().find(|(t, _)| t.name == tool);
        let loose = || found.clone().find(|(t, d)| d.name == tool || is_dotted(tool, &listed.name, &t.name));
        let found = exact.or_else(loose).ok_or_else(|| {
            let names = listed.tools.iter().map(|t| t.name.as_str());
            LibraryError::NoTool { server: listed.name.clone(), asked: quoted(tool), hint: hint(tool, names, "Its tools") }
        })?;
        Ok((listed, found.0, found.1))
    }

    /// The tools that are best for what `query` asks for, each with its signature: what they are called with needs no further
    /// reading. `limit` is at most 50.
    #[must_use]
    pub fn search(&self, query: &str, limit: Option<u32>) -> String {
        let total: usize = self.catalog.servers.iter().map(|server| server.tools.len()).sum();
        let limit = limit.unwrap_or(HITS).clamp(1, MAX_HITS);
        let index = self.index.get_or_init(|| Index::of(self.catalog.servers.iter().zip(&self.servers).map(listed)));
        let found = index.find(query, limit as usize);
        let language = self.languages.first();
        let mark = language.comment();
        let how = match language {
            Language::Python => "Call them as written, arguments by keyword. \"key?\" may be missing.",
            Language::Typescript => "Call them as written, and await them.",
        };
        let mut out = match found.len() {
            0 => return format!("None of {total} tools fits {:?}. Use other words, or listToolFiles.\n", quoted(query)),
            hits => format!("{mark} {hits} of {total} tools, best first. {how}\n"),
        };
        let mut cut = false;
        for (server, tool) in found {
            let (Some(def), Some(listed)) = (self.servers.get(server), self.catalog.servers.get(server)) else { continue };
            let (Some(def), Some(entry)) = (def.tools.get(tool), listed.tools.get(tool)) else { continue };
            let mut sheet = Sheet::default();
            sheet.add(entry, &def.definition);
            let rendered = sheet.render(STUB, language);
            let lines =
                rendered.aliases.iter().cloned().chain(rendered.signatures.iter().map(|line| callable(&listed.name, line)));
            let lines = lines.collect::<Vec<_>>().join("\n");
            if out.len() + lines.len() > MAX_ANSWER {
                out.push_str(&format!("{mark} the rest is cut; ask for less with limit\n"));
                return out;
            }
            cut |= rendered.cut;
            out.push_str(&lines);
            out.push('\n');
        }
        if cut {
            out.push_str(&format!("{mark} What is cut (...) is in getToolDocs.\n"));
        }
        out
    }

    fn file(&self, path: &str) -> Result<&File, LibraryError> {
        let asked = path.trim().trim_start_matches("./").trim_start_matches('/');
        let exact = self.by_path.get(asked).and_then(|at| self.files.get(*at));
        // Models leave out the folder or the ending; each spelling still means at most one file, by comparison with the table.
        let is = |path: &str, f: &File| path == asked || path.strip_suffix(f.language.ending()) == Some(asked);
        let short = |f: &File| f.path.strip_prefix("servers/").is_some_and(|path| is(path, f));
        let loose = || self.files.iter().find(|f| short(f) || is(&f.path, f));
        exact.or_else(loose).ok_or_else(|| {
            let hint = hint(asked, self.files.iter().map(|f| f.path.as_str()), "Files");
            LibraryError::NoFile { asked: quoted(path), hint }
        })
    }

    fn server_index(&self, name: &str) -> Result<usize, LibraryError> {
        let by_name = self.catalog.servers.iter().position(|s| s.name == name);
        let by_raw = || self.servers.iter().position(|s| s.name == name);
        let by_path = || self.by_path.get(name).and_then(|at| self.files.get(*at)).map(|f| f.server);
        by_name.or_else(by_raw).or_else(by_path).ok_or_else(|| self.no_server(name))
    }

    fn no_server(&self, name: &str) -> LibraryError {
        let hint = hint(name, self.catalog.servers.iter().map(|s| s.name.as_str()), "Servers");
        LibraryError::NoServer { asked: quoted(name), hint }
    }

    fn text<'a>(&'a self, file: &'a File) -> &'a str {
        file.text.get_or_init(|| match (self.servers.get(file.server), self.catalog.servers.get(file.server)) {
            (Some(def), Some(server)) => render(def, server, file.tool, file.language),
            _ => String::new(),
        })
    }
}

fn listed<'a>((catalog, def): (&'a CatalogServer, &'a ServerDef)) -> Listed<'a> {
    let tools = catalog.tools.iter().zip(def.tools.iter().map(|tool| &*tool.definition)).collect();
    Listed { catalog, description: def.description.as_deref().unwrap_or_default(), tools }
}

/// A signature as a script writes the call.
fn callable(server: &str, signature: &str) -> String {
    let signature = signature.strip_prefix("def ").unwrap_or(signature).trim_start();
    match signature.rsplit_once(": ...") {
        Some((call, about)) => format!("{server}.{call}{about}"),
        None => format!("{server}.{signature}"),
    }
}

fn catalog_server(def: &ServerDef, name: String) -> CatalogServer {
    let raw: Vec<&str> = def.tools.iter().map(|t| t.name.as_str()).collect();
    let names = identifiers(&raw, Kind::Tool);
    CatalogServer { name, tools: def.tools.iter().zip(names).map(|(tool, name)| catalog_tool(tool, name)).collect() }
}

fn catalog_tool(tool: &ToolDef, name: String) -> CatalogTool {
    let input = tool.definition.get("inputSchema").unwrap_or(&Value::Null);
    let shape = Shape::of(input, input, &mut EFFORT.clone());
    let props: Vec<_> = shape.in_signature_order().collect();
    let keys: Vec<&str> = props.iter().map(|p| p.key).collect();
    let params = identifiers(&keys, Kind::Param)
        .into_iter()
        .zip(props)
        .map(|(name, prop)| {
            // What only one of several alternatives says of a property does not hold for the others.
            let schema = input.get("properties").and_then(|all| all.get(prop.key));
            let Plain { types, choices } = schema.and_then(|schema| Plain::of(input, schema)).unwrap_or_default();
            CatalogParam { name, key: prop.key.to_owned(), required: prop.required, types, choices }
        })
        .collect();
    CatalogTool { name, tool_id: tool.tool_id.clone(), params, open: shape.is_open() }
}

fn files_of(languages: Languages, servers: &[ServerDef], catalog: &Catalog) -> Vec<File> {
    let mut files = Vec::new();
    let pairs = || servers.iter().zip(&catalog.servers).enumerate();
    for (language, (server, (def, listed))) in languages.all().flat_map(|language| pairs().map(move |pair| (language, pair))) {
        let ending = language.ending();
        let mut add = |path, tool| files.push(File { path, language, server, tool, text: OnceLock::new() });
        match def.binding {
            Binding::Server => add(format!("servers/{}{ending}", listed.name), None),
            Binding::Tool => {
                for (at, tool) in listed.tools.iter().enumerate() {
                    add(format!("servers/{}/{}{ending}", listed.name, tool.name), Some(at));
                }
            }
        }
    }
    files
}

fn render(def: &ServerDef, server: &CatalogServer, only: Option<usize>, language: Language) -> String {
    let mut sheet = Sheet::default();
    for (at, (tool, entry)) in def.tools.iter().zip(&server.tools).enumerate() {
        if only.is_none_or(|o| o == at) {
            sheet.add(entry, &tool.definition);
        }
    }
    let rendered = sheet.render(STUB, language);
    let about = text::sentence(def.description.as_deref().unwrap_or_default(), 160);
    let mark = language.comment();
    let name = &server.name;
    let how = match language {
        Language::Python => format!("{name}.<tool>(keyword=value). \"key?\" may be missing."),
        Language::Typescript => format!("await {name}.<tool>({{ key: value }})."),
    };
    let mut out = format!("{mark} {name}{}{about}\n", if about.is_empty() { "" } else { ": " });
    out.push_str(&format!("{mark} call: {how}"));
    out.push_str(if rendered.cut { " What is cut (...) is in getToolDocs.\n" } else { "\n" });
    let mut lines = rendered.aliases;
    if language == Language::Typescript {
        lines.push(format!("declare const {name}: {{"));
    }
    lines.extend(rendered.signatures);
    if language == Language::Typescript {
        lines.push("};".to_owned());
    }
    out + &lines.join("\n") + "\n"
}

/// For each tool of a long file its line and what it is about, cut off where even that is too long.
fn outline(whole: &str, language: Language) -> String {
    let mark = language.comment();
    let (begins, purpose) = match language {
        Language::Python => ("def ", ": ...  # "),
        Language::Typescript => ("  ", "; // "),
    };
    let lines: Vec<&str> = whole.lines().collect();
    let mut out = vec![format!(
        "{mark} {} lines, too long for one answer. This is its outline: line, tool, purpose. Read parts with startLine and endLine, \
         or one tool with getToolDocs.",
        lines.len()
    )];
    for (at, line) in lines.iter().enumerate() {
        let name = line.strip_prefix(begins).and_then(|l| l.split('(').next());
        let Some(name) = name else { continue };
        let about = line.rsplit_once(purpose).map(|(_, about)| text::cap(about, 70)).unwrap_or_default();
        out.push(format!("{mark} {} {name} {about}", at + 1).trim_end().to_owned());
    }
    let first = lines.iter().position(|l| l.starts_with(begins)).unwrap_or_default();
    if first > 2 {
        out.push(format!("{mark} 3-{first} named types"));
    }
    let mut answer = String::new();
    for line in &out {
        if answer.len() + line.len() > MAX_ANSWER - 100 {
            answer.push_str(&format!("{mark} the outline is cut here; read further lines with startLine\n"));
            break;
        }
        answer.push_str(line);
        answer.push('\n');
    }
    answer
}

/// The lines as far as one answer reaches, and where to go on.
fn bounded(lines: &[&str], start: usize, language: Language) -> String {
    let mut out = String::new();
    for (at, line) in lines.iter().enumerate() {
        if at > 0 && out.len() + line.len() > MAX_ANSWER {
            out.push_str(&format!("{} cut here; continue with startLine={}\n", language.comment(), start + at));
            break;
        }
        out.push_str(line);
        out.push('\n');
    }
    out
}

fn some_names(server: &CatalogServer, max: usize) -> String {
    let mut names: Vec<&str> = server.tools.iter().map(|t| t.name.as_str()).take(max).collect();
    if server.tools.len() > max {
        names.push("...");
    }
    names.join(", ")
}

/// The asker wrote `server.tool` where `tool` was meant.
fn is_dotted(asked: &str, server: &str, tool: &str) -> bool {
    asked.strip_prefix(server).and_then(|rest| rest.strip_prefix('.')) == Some(tool)
}

fn quoted(asked: &str) -> String {
    text::cap(&text::line(asked), 100)
}

/// "Did you mean ..? Files: ..": the three nearest names, then what there is, nearest first.
fn hint<'a>(asked: &str, names: impl Iterator<Item = &'a str>, what: &str) -> String {
    let asked = text::cap(asked, 200).to_lowercase();
    let mut near: Vec<(f64, &str)> = names.map(|n| (strsim::jaro_winkler(&asked, &n.to_lowercase()), n)).collect();
    if near.is_empty() {
        return format!("{what}: none.");
    }
    let total = near.len();
    let mut by_name: Vec<&str> = Vec::new();
    near.sort_by(|a, b| b.0.total_cmp(&a.0));
    by_name.extend(near.iter().take(MAX_NAMES).map(|n| n.1));
    let meant: Vec<&str> = near.iter().take(3).filter(|n| n.0 >= 0.9).map(|n| n.1).collect();
    let meant = if meant.is_empty() { String::new() } else { format!("Did you mean {}? ", meant.join(" or ")) };
    let more = if total > MAX_NAMES { format!(", and {} more", total - MAX_NAMES) } else { String::new() };
    format!("{meant}{what}: {}{more}.", by_name.join(", "))
}
