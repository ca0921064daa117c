"""JavaScript, which node runs, and what stands around it there. Floor: control.

``handler`` is found where it is a function of that name at the top, or ``exports.handler``. Code without one is just
run. It is a script and no module: ``require`` and not ``import``.
"""

from __future__ import annotations

import json
from typing import Final

CODE_FD: Final = 3
"""Descriptor from which node reads what :func:`request` gave."""
RESULT_FD: Final = 4
"""Descriptor at which it says what was returned."""

_HARNESS = """\
(() => {
'use strict';
const fs = require('fs'), vm = require('vm'), path = require('path');
const request = JSON.parse(fs.readFileSync(CODE_FD, 'utf8'));
fs.closeSync(CODE_FD);
const say = (head, body) => {
  const first = Buffer.from(JSON.stringify(head)), second = Buffer.from(body || '');
  const lengths = Buffer.alloc(8);
  lengths.writeUInt32BE(first.length, 0);
  lengths.writeUInt32BE(second.length, 4);
  const data = Buffer.concat([lengths, first, second]);
  for (let at = 0; at < data.length;) at += fs.writeSync(RESULT_FD, data, at);
};
const fail = (error) => {
  const isError = error instanceof Error || (error && typeof error === 'object' && 'stack' in error);
  const name = String((error && error.name) || 'Error'), value = String(isError ? error.message : error);
  const stack = String((isError && error.stack) || `${name}: ${value}`);
  const ours = stack.split('\\n').filter((line) => !/\\[eval\\]|node:(vm|internal)/.test(line));
  fs.writeSync(2, ours.join('\\n') + '\\n');
  const traceback = ours.join('\\n').slice(0, 20000).split('\\n');
  say({is: 'error'}, JSON.stringify({name: name.slice(0, 200), value: value.slice(0, 10000), traceback}));
  process.exit(1);
};
process.on('uncaughtException', fail);
process.on('unhandledRejection', fail);
const own = require('module').createRequire(path.join(process.cwd(), 'handler.js'));
const module_ = {exports: {}};
Object.assign(globalThis, {require: own, module: module_, exports: module_.exports});
vm.runInThisContext(request.code, {filename: '<handler>'});
const found = vm.runInThisContext("typeof handler === 'function' ? handler : undefined");
const handler = typeof module_.exports.handler === 'function' ? module_.exports.handler : found;
const returned = (value) => {
  let text;
  try {
    text = JSON.stringify(value === undefined ? null : value);
    if (text === undefined) throw new TypeError(`a ${typeof value} is no JSON`);
    if (Buffer.byteLength(text) > request.limit) throw new RangeError(`${Buffer.byteLength(text)} bytes are too many`);
  } catch (error) {
    const message = `handler returned what is no JSON: ${error.message}`.slice(0, 1000);
    fs.writeSync(2, message + '\\n');
    say({is: 'bad', message});
    process.exit(1);
  }
  say({is: 'value'}, text);
};
if (handler) Promise.resolve().then(() => handler(request.event)).then(returned, fail);
})();
"""


def command() -> list[str]:
    """What is executed."""
    return ["node", "-e", _HARNESS.replace("CODE_FD", str(CODE_FD)).replace("RESULT_FD", str(RESULT_FD))]


def request(code: str, event: str, limit: int) -> bytes:
    """What it reads: the code, what the handler is called with as JSON, and bytes of the largest return value."""
    return json.dumps({"code": code, "event": json.loads(event), "limit": limit}).encode()
