"""How the HTML report looks. Floor: testrun."""

from __future__ import annotations

STYLE = """
:root {
  color-scheme: light dark;
  --page: #ffffff; --panel: #f5f6f8; --line: #d4d8de; --text: #1b1f24; --quiet: #545b66; --link: #0b57a4;
  --good: #1a6b34; --bad: #b3261e; --warn: #7a4d00; --bad-panel: #fdf1f0;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171b; --panel: #1e2228; --line: #3a414b; --text: #e6e9ed; --quiet: #a5adb8; --link: #7db8f5;
    --good: #6fce8e; --bad: #ff8f85; --warn: #f0bd62; --bad-panel: #2c1b1b;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 1.5rem 1.25rem 4rem; max-width: 70rem;
  background: var(--page); color: var(--text); font: 1rem/1.5 system-ui, sans-serif;
}
h1 { font-size: 1.05rem; font-weight: 600; color: var(--quiet); margin: 0; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .75rem; }
h3 { font-size: 1rem; display: inline; font-weight: 600; }
h4 { font-size: .9rem; margin: 1rem 0 .25rem; color: var(--quiet); }
a { color: var(--link); }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
.skip { position: absolute; left: -99rem; }
.skip:focus { left: 1rem; top: .5rem; background: var(--page); padding: .5rem; }
.verdict { font-size: 1.75rem; line-height: 1.25; font-weight: 700; margin: .25rem 0 1rem; }
.counts { list-style: none; display: flex; flex-wrap: wrap; gap: .5rem; padding: 0; margin: 0 0 1rem; }
.counts li {
  border: 1px solid var(--line); border-radius: .5rem; background: var(--panel); padding: .35rem .8rem;
  white-space: nowrap;
}
.counts b { font-size: 1.2rem; margin-right: .25rem; }
.good { color: var(--good); } .bad { color: var(--bad); } .warn { color: var(--warn); } .quiet { color: var(--quiet); }
.facts { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: 0; font-size: .9rem; }
.facts dt { color: var(--quiet); }
.facts dd { margin: 0; overflow-wrap: anywhere; }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; padding: 0; margin: 1.25rem 0 0; }
.note { border-left: 4px solid var(--warn); background: var(--panel); padding: .5rem .8rem; margin: .5rem 0; }
.failure {
  border: 1px solid var(--line); border-left: 4px solid var(--bad); border-radius: .25rem; margin: .6rem 0;
  background: var(--panel);
}
.failure > summary, .more > summary { cursor: pointer; padding: .5rem .8rem; }
.failure > div { padding: 0 .8rem .8rem; }
.failure .line { display: block; color: var(--quiet); font-size: .9rem; overflow-wrap: anywhere; }
.id, pre { font-family: ui-monospace, "Cascadia Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.id { font-size: .88rem; overflow-wrap: anywhere; unicode-bidi: isolate; }
.message { overflow-wrap: anywhere; margin: .25rem 0; background: var(--bad-panel); padding: .35rem .6rem; }
pre {
  margin: 0; padding: .6rem .8rem; background: var(--page); border: 1px solid var(--line); border-radius: .25rem;
  font-size: .82rem; line-height: 1.45; overflow: auto; max-height: 32rem; tab-size: 4; unicode-bidi: plaintext;
}
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
caption { text-align: left; color: var(--quiet); padding: .25rem 0; }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem .3rem 0; border-bottom: 1px solid var(--line); }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; padding-right: 0; }
td.n + td.n, th.n + th.n { padding-left: 1rem; }
tbody th { font-weight: 400; white-space: nowrap; }
td.o { white-space: nowrap; }
small { display: block; color: var(--quiet); font-size: .82rem; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
fieldset { border: 1px solid var(--line); border-radius: .5rem; padding: .4rem .8rem .6rem; margin: 0 0 1rem; }
legend { color: var(--quiet); padding: 0 .4rem; font-size: .9rem; }
.filter { display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; }
.filter label { white-space: nowrap; cursor: pointer; padding: .15rem 0; }
svg { display: block; width: 100%; height: auto; max-width: 46rem; }
svg text { fill: var(--text); font: 11px system-ui, sans-serif; }
svg .bar { text-anchor: middle; }
svg .axis { stroke: var(--line); } svg .ok { fill: var(--good); } svg .no { fill: var(--bad); }
svg .hatch { stroke: var(--page); stroke-width: 2; }
@media (max-width: 40rem) {
  body { padding: 1rem .9rem 3rem; }
  .verdict { font-size: 1.4rem; }
  td.o { white-space: normal; max-width: 6.5rem; }
  svg text { font-size: 20px; }
  svg .bar { display: none; }
}
@media print { pre { max-height: none; } fieldset, nav { display: none; } }
"""
