// What a script finds besides the language: servers, the journal's clock and chance, the log. Everything used here is taken
// before the script runs, so that no later `JSON = ..` or `Array.prototype.map = ..` reaches it.
(function (host, servers) {
  "use strict";
  const { defineProperty, getPrototypeOf } = Object;
  const { apply, construct } = Reflect;
  const { isArray } = Array;
  const NativePromise = Promise, NativeDate = Date, NativeError = Error, NativeProxy = Proxy, NativeMap = Map;
  const text = String, plain = Object.prototype;
  const mapGet = Map.prototype.get, mapSet = Map.prototype.set, mapDelete = Map.prototype.delete, mapForEach = Map.prototype.forEach;
  const setForEach = Set.prototype.forEach, mapSize = getter(Map.prototype, "size"), setSize = getter(Set.prototype, "size");
  const tag = Object.prototype.toString, toWellFormed = String.prototype.toWellFormed;
  const weakGet = WeakMap.prototype.get, weakSet = WeakMap.prototype.set, weakHas = WeakMap.prototype.has;
  const isMap = (value) => succeeds(mapSize, value), isSet = (value) => succeeds(setSize, value);
  // A descriptor without a parent: what a script gives `Object.prototype` is no part of it.
  const fixed = (value, enumerable) => ({ __proto__: null, value, enumerable, writable: false, configurable: false });
  const open = (value, enumerable = false) => ({ __proto__: null, value, enumerable, writable: true, configurable: true });

  function getter(prototype, name) {
    return Object.getOwnPropertyDescriptor(prototype, name).get;
  }
  function succeeds(size, value) {
    try { apply(size, value, []); return true; } catch { return false; }
  }
  // The engine reads texts as UTF-8, which has no halves of pairs.
  const whole = (given) => apply(toWellFormed, given, []);
  // The engine stops the script within these turns: it has asked for something that is not answered yet.
  const stop = () => { for (;;); };

  // --- errors
  const marks = new WeakMap();
  class ToolError extends NativeError {
    constructor(message, tool) {
      super(message);
      defineProperty(this, "tool", open(tool));
    }
  }
  defineProperty(ToolError.prototype, "name", open("ToolError"));
  defineProperty(globalThis, "ToolError", open(ToolError));
  const marked = (error, kind, place) => {
    apply(weakSet, marks, [error, { __proto__: null, kind, place }]);
    return error;
  };

  // --- calls
  const waiting = new NativeMap();
  const call = (server, tool, name, given) => {
    const at = new NativeError().stack;
    const asked = host.call(engine, server, tool, whole(name), given, whole(at));
    return new NativePromise((resolve, reject) => {
      if (typeof asked !== "number") return reject(marked(new NativeError(asked.message), asked.kind, at));
      apply(mapSet, waiting, [asked, { __proto__: null, resolve, reject, at, label: `${servers[server]}.${name}` }]);
    });
  };
  const server = (index) => {
    const tools = { __proto__: null };
    const tool = (key) => {
      if (tools[key] === undefined) {
        const found = host.find(index, whole(key));
        if (found < 0 && (key === "then" || key === "toJSON")) return undefined;
        defineProperty(tools, key, open(named((...given) => call(index, found, key, given), key), found >= 0));
      }
      return tools[key];
    };
    const named = (made, name) => defineProperty(made, "name", open(name));
    const never = () => false;
    return new NativeProxy(tools, {
      __proto__: null,
      get: (_, key) => (typeof key === "string" ? tool(key) : undefined),
      has: (_, key) => typeof key === "string" && host.find(index, whole(key)) >= 0,
      ownKeys: () => host.tools(index),
      getOwnPropertyDescriptor: (_, key) =>
        typeof key === "string" && host.find(index, whole(key)) >= 0
          ? open(tool(key), true)
          : undefined,
      set: never, defineProperty: never, deleteProperty: never, setPrototypeOf: never, preventExtensions: never,
    });
  };
  for (let index = 0; index < servers.length; index++) defineProperty(globalThis, servers[index], fixed(server(index), true));

  // --- time and chance
  const now = () => {
    const time = host.now();
    if (time === undefined) stop();
    return time;
  };
  function JournalledDate(...given) {
    if (new.target === undefined) return apply(dateText, new NativeDate(now()), []);
    return construct(NativeDate, given.length === 0 ? [now()] : given, new.target);
  }
  const dateText = NativeDate.prototype.toString;
  defineProperty(JournalledDate, "name", open("Date"));
  defineProperty(JournalledDate, "length", open(7));
  defineProperty(JournalledDate, "prototype", fixed(NativeDate.prototype, false));
  defineProperty(NativeDate.prototype, "constructor", open(JournalledDate));
  for (const name of ["parse", "UTC"]) defineProperty(JournalledDate, name, open(NativeDate[name]));
  defineProperty(JournalledDate, "now", open({ now() { return now(); } }.now));
  defineProperty(globalThis, "Date", open(JournalledDate));
  defineProperty(Math, "random", open({
    random() {
      const number = host.random();
      if (number === undefined) stop();
      return number;
    },
  }.random));

  // --- the log
  const log = { log(...given) { host.log(engine, given); } }.log;
  const console = {};
  for (const name of ["log", "info", "warn", "error", "debug", "table", "dir", "trace"]) console[name] = log;
  for (const name of ["group", "groupEnd", "time", "timeEnd", "assert", "count"]) console[name] = () => undefined;
  defineProperty(globalThis, "console", open(console));
  defineProperty(globalThis, "print", open(log));
  defineProperty(globalThis, "result", open(undefined));

  // --- what is taken away: code from strings (what the check has read is what runs), what tells of the machine's memory or
  // shares it between threads, and the stack's format, on which the places in messages depend.
  for (const name of ["eval", "WeakRef", "FinalizationRegistry", "Atomics", "SharedArrayBuffer", "performance", "navigator", "gc", "DOMException"]) {
    delete globalThis[name];
  }
  const noCode = function Function() {
    throw new NativeError("Code cannot be run from strings. Write it in the script.");
  };
  defineProperty(noCode, "prototype", fixed(Function.prototype, false));
  for (const sample of [function () {}, async function () {}, function* () {}, async function* () {}]) {
    defineProperty(getPrototypeOf(sample), "constructor", fixed(noCode, false));
  }
  defineProperty(globalThis, "Function", open(noCode));
  defineProperty(NativeError, "stackTraceLimit", fixed(10, false));
  defineProperty(NativeError, "prepareStackTrace", fixed(undefined, false));
  defineProperty(BigInt.prototype, "toJSON", open({ toJSON() { return text(this); } }.toJSON));

  // --- what JSON does not know
  const boxes = [Number, String, Boolean, BigInt].map((kind) => kind.prototype.valueOf);
  const strange = [
    { what: "a regular expression", ask: getter(RegExp.prototype, "source") },
    { what: "a symbol", ask: Symbol.prototype.valueOf },
    { what: "a WeakMap", ask: WeakMap.prototype.has },
    { what: "a WeakSet", ask: WeakSet.prototype.has },
    { what: "an ArrayBuffer", ask: getter(ArrayBuffer.prototype, "byteLength") },
    { what: "a DataView", ask: getter(DataView.prototype, "byteLength") },
  ];

  // --- for the engine
  const unhandled = new NativeMap();
  const engine = {
    __proto__: null,
    text: (value) => text(value),
    whole,
    deliver(sequence, fine, value) {
      const { resolve, reject, at, label } = apply(mapGet, waiting, [sequence]);
      apply(mapDelete, waiting, [sequence]);
      if (fine) resolve(value);
      else reject(marked(new ToolError(value, label), "tool_error", at));
    },
    rejection(promise, reason, handled) {
      if (handled) apply(mapDelete, unhandled, [promise]);
      else apply(mapSet, unhandled, [promise, { __proto__: null, reason }]);
    },
    /** The first rejection that nobody has looked at, except that of the script itself. */
    unhandled(main) {
      let first;
      apply(mapForEach, unhandled, [(entry, promise) => { if (promise !== main) first ??= entry; }]);
      return first;
    },
    describe(error) {
      const mark = typeof error === "object" && error !== null && apply(weakHas, marks, [error]) ? apply(weakGet, marks, [error]) : undefined;
      const read = (name) => { const value = error[name]; return typeof value === "string" ? whole(value) : ""; };
      const isError = error instanceof NativeError;
      return {
        __proto__: null,
        kind: mark === undefined ? "" : mark.kind,
        stack: mark === undefined ? (isError ? read("stack") : "") : whole(mark.place),
        name: isError ? read("name") : "",
        message: isError ? read("message") : undefined,
        label: mark !== undefined && mark.kind === "tool_error" ? read("tool") : "",
      };
    },
    /** Of what JSON does not know: `[key, value, ..]` of a map, the items of a set, what a box holds; of anything else its name. */
    parts(value) {
      const parent = getPrototypeOf(value);
      if (parent === plain || parent === null) return undefined;
      if (isArray(value)) return { __proto__: null, kind: "list" };
      if (apply(tag, value, []) === "[object Object]") return undefined;
      const items = [];
      const push = (item) => defineProperty(items, items.length, open(item, true));
      if (isMap(value)) {
        apply(mapForEach, value, [(item, key) => { push(key); push(item); }]);
        return { __proto__: null, kind: "map", items };
      }
      if (isSet(value)) {
        apply(setForEach, value, [push]);
        return { __proto__: null, kind: "set", items };
      }
      for (let at = 0; at < boxes.length; at++) {
        try { return { __proto__: null, kind: "box", value: apply(boxes[at], value, []) }; } catch {}
      }
      for (let at = 0; at < strange.length; at++) {
        const { what, ask } = strange[at];
        if (succeeds(ask, value)) return { __proto__: null, kind: what };
      }
      return undefined;
    },
  };
  return engine;
})
