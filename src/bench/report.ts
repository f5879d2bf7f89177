/**
 * The report: one HTML file that needs nothing else. Charts are drawn by `chart.ts`, every number stands in a table too, there is no script, and its
 * Content-Security-Policy lets it ask nobody for anything. Light or dark as its reader's system is.
 */

import { drawBars, drawLines, escape, type Drawn, type Figures } from './chart.ts'
import type { Table, View } from './part.ts'
import type { Bench, PartRun } from './run.ts'
import { showFigure, showSpread } from './text.ts'

const style = `
:root{color-scheme:light dark;--page:#f6f7f9;--card:#fff;--ink:#161b26;--soft:#5a6475;--rule:#e1e5eb;--grid:#e8ebf0;--accent:#1f5fd6;
--c1:#1f5fd6;--c2:#d9730d;--c3:#12875a;--c4:#b3261e;--c5:#7a4fc9;--c6:#00829b;--c7:#a8327e;--c8:#6b7280}
@media (prefers-color-scheme:dark){:root{--page:#0e1116;--card:#161b23;--ink:#e8ecf3;--soft:#9aa6b8;--rule:#28303c;--grid:#252c37;--accent:#7fb0ff;
--c1:#6ea3ff;--c2:#f5a04d;--c3:#45c694;--c4:#ff7d72;--c5:#b69bff;--c6:#4fc6dd;--c7:#f086c4;--c8:#9aa3b2}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;scroll-behavior:smooth}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;overflow-wrap:break-word}
main,header,footer{max-width:1120px;margin:0 auto;padding:0 20px}
header{padding-top:40px}
h1{font-size:clamp(26px,4.6vw,38px);line-height:1.15;letter-spacing:-.02em;margin:0 0 10px}
h2{font-size:24px;letter-spacing:-.01em;margin:0 0 8px}
h3{font-size:16px;margin:0 0 4px}
p{margin:0 0 12px;max-width:78ch}
.soft{color:var(--soft)}
.eyebrow{color:var(--accent);font-weight:600;font-size:14px;margin:0 0 6px}
dl.machine{display:grid;grid-template-columns:max-content 1fr;gap:2px 16px;margin:18px 0 0;font-size:14px}
dl.machine dt{color:var(--soft)}dl.machine dd{margin:0}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(210px,1fr));gap:14px;margin:28px 0 8px;padding:0;list-style:none}
.tiles li{background:var(--card);border:1px solid var(--rule);border-radius:12px;padding:16px 18px}
.tiles .what{font-size:14px;color:var(--soft);display:block}
.tiles b{font-size:28px;letter-spacing:-.02em;font-variant-numeric:tabular-nums;display:block;line-height:1.25}
.tiles .of{font-size:14px}
nav{margin:22px 0 0;font-size:14px}
nav a{color:var(--accent);margin-right:16px;white-space:nowrap}
section{margin:44px 0 0;scroll-margin-top:16px}
.views{display:grid;grid-template-columns:minmax(0,1fr);gap:18px;margin-top:18px}
figure,.card{margin:0;background:var(--card);border:1px solid var(--rule);border-radius:12px;padding:18px 20px}
figcaption p,.card>p{font-size:14px;color:var(--soft);margin:0 0 12px}
.plot{padding:12px 12px 4px 52px}
.axis{font-size:12.5px;color:var(--soft)}
.axis.x{text-align:center;padding-left:52px;margin:2px 0 0;max-width:none}
.axis.y{margin:6px 0 0}
svg{display:block;overflow:visible}
svg text{font-size:12.5px;fill:var(--ink);font-variant-numeric:tabular-nums}
svg .tick{fill:var(--soft);font-size:12px}
svg .name{font-weight:500;font-size:13.5px}
.grid{stroke:var(--grid);stroke-width:1}
.line{stroke:var(--c);stroke-width:2.25;stroke-linecap:round}
.dashed{stroke-dasharray:2 6;opacity:.85}
.spread{stroke:var(--c);stroke-width:1.5;opacity:.55}
.bars .spread{stroke:var(--ink);opacity:.45}
circle{fill:var(--c);stroke:var(--card);stroke-width:1.5}
circle.hollow{fill:var(--card);stroke:var(--c)}
rect{fill:var(--c)}
.legend{display:flex;flex-wrap:wrap;gap:4px 18px;margin:12px 0 0;padding:0;list-style:none;font-size:13.5px}
.legend li{display:flex;align-items:center;gap:7px}
.legend i{width:18px;height:0;border-top:3px solid var(--c);flex:none}
.legend i.dashed{border-top-style:dotted;opacity:1}
.scroll{overflow-x:auto;margin:0 -20px;padding:0 20px}
.scroll:focus-visible{outline:2px solid var(--accent);outline-offset:-2px;border-radius:8px}
table{border-collapse:collapse;font-size:14px;min-width:min(100%,560px);font-variant-numeric:tabular-nums}
table.wide{width:100%}
th,td{padding:7px 0 7px 18px;text-align:right;vertical-align:top;border-top:1px solid var(--rule);white-space:nowrap}
thead th{border-top:0;color:var(--soft);font-weight:500;vertical-align:bottom}
th:first-child,td:first-child{text-align:left;padding-left:0;white-space:normal;min-width:9.5em}
tbody th{font-weight:500}
td small{display:block;color:var(--soft);font-size:11.5px;line-height:1.3}
.lacking{font-size:14px;color:var(--soft);margin:16px 0 0;padding-left:20px}
.failure{border-left:4px solid var(--c4);background:var(--card);padding:10px 16px;border-radius:4px}
footer{margin-top:56px;padding-bottom:48px;font-size:14px;color:var(--soft)}
@media (max-width:560px){main,header,footer{padding-left:14px;padding-right:14px}header{padding-top:24px}figure,.card{padding:14px}.scroll{margin:0 -14px;padding:0 14px}
.plot{padding-left:44px;padding-right:6px}.axis.x{padding-left:44px}dl.machine{grid-template-columns:1fr;gap:0}dl.machine dd{margin-bottom:6px}
.tiles{grid-template-columns:repeat(2,minmax(0,1fr));gap:10px}.tiles li{padding:12px}.tiles b{font-size:24px}}
@media print{body{background:#fff}figure,.card{break-inside:avoid}}
`

export function renderReport(run: Bench): string {
  const { machine, plan } = run
  const { token, versions } = machine
  const device = [token.manufacturer, token.model, token.firmware].filter((word) => word !== '').join(' ')
  const facts: readonly (readonly [string, string])[] = [
    [
      'Token',
      `${device}, ${count(token.sessions, 'session')}, ${token.wrapScheme ?? 'no wrap scheme'}; module ${token.library}, profile ${token.profile}`,
    ],
    ['Machine', `${machine.cpu}, ${count(machine.cores, 'core')}, ${(machine.memoryBytes / 2 ** 30).toFixed(1)} GiB; ${machine.platform}`],
    [
      'Versions',
      `Holdfast ${versions.holdfast}${versions.commit === null ? '' : ` (${versions.commit})`}, Node ${versions.node}, OpenSSL ${versions.openssl}`,
    ],
    [
      'Run',
      `${run.startedAt.replace('T', ' ').replace(/\..*/, ' UTC')}, ${duration(run.seconds)}; ${plan.level}: ${count(plan.rounds, 'round')} of ${plan.durationMs / 1000} s a side`,
    ],
  ]
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>${escape(`What ${device} costs: Holdfast bench`)}</title>
<style>${style}</style>
</head>
<body>
<header>
<p class="eyebrow">Holdfast bench</p>
<h1>What keeping keys in this token costs</h1>
<p class="soft">Every figure is the median of its rounds; what the rounds spread over stands beneath it and is drawn as a thin line. Both sides of a comparison take turns within a round, and a ratio is taken pair by pair.</p>
<dl class="machine">${facts.map(([name, text]) => `<dt>${name}</dt><dd>${escape(text)}</dd>`).join('')}</dl>
${renderTiles(run)}
<nav aria-label="Parts">${run.parts.map(({ name, title }) => `<a href="#${escape(name)}">${escape(title)}</a>`).join(' ')}</nav>
</header>
<main>
${run.parts.map(renderPart).join('\n')}
</main>
<footer><p>Measured by the bench of Holdfast. How: docs/performance.md. The same figures for programs are in bench.json; two such files are held against each other by <code>holdfast bench --compare A.json B.json</code>.</p></footer>
</body>
</html>
`
}

const count = (number: number, noun: string): string => `${number} ${noun}${number === 1 ? '' : 's'}`
const duration = (seconds: number): string => (seconds < 90 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`)

/** `Encrypt 32 B over HTTP: 0.47 of bare baseline`: what, the number, of what. */
function renderTiles({ parts }: Bench): string {
  const tiles: string[] = []
  const lines: string[] = []
  for (const line of parts.flatMap(({ headlines }) => headlines)) {
    const [, what = '', number, of = ''] = /^(.*?): ([\d.,/]+(?:×| (?:µs|ms|s|GB|MB\/s))?) ?(.*)$/.exec(line) ?? []
    // What needs more words than that is a sentence.
    if (number === undefined || of.length > 48) lines.push(`<li>${escape(line)}</li>`)
    else tiles.push(`<li><span class="what">${escape(what)}</span><b>${escape(number)}</b><span class="of">${escape(of)}</span></li>`)
  }
  const list = (name: string, items: readonly string[]): string => (items.length === 0 ? '' : `<ul class="${name}">${items.join('')}</ul>`)
  return list('tiles', tiles) + list('lacking', lines)
}

function renderPart({ name, title, about, figures, views, lacking, failure }: PartRun): string {
  return `<section id="${escape(name)}">
<h2>${escape(title)}</h2>
${about.map((paragraph) => `<p>${escape(paragraph)}</p>`).join('\n')}
${failure === null ? '' : `<p class="failure">This part stopped: ${escape(failure)}</p>`}
<div class="views">${views.map((view) => renderView(view, figures)).join('\n')}</div>
${lacking.length === 0 ? '' : `<ul class="lacking" aria-label="Not measured">${lacking.map((line) => `<li>${escape(line)}</li>`).join('')}</ul>`}
</section>`
}

function renderView(view: View, figures: Figures): string {
  if (view.kind === 'table') return renderTable(view, figures)
  const drawn = view.kind === 'lines' ? drawLines(view, figures) : drawBars(view, figures)
  const across = view.kind === 'lines' ? view.x.label : view.y.label
  return `<figure>
<figcaption><h3>${escape(view.title)}</h3>${view.about === undefined ? '' : `<p>${escape(view.about)}</p>`}</figcaption>
${view.kind === 'lines' ? `<p class="axis y">${escape(view.y.label)}</p>` : ''}
${drawn.svg}
<p class="axis x"${view.kind === 'bars' ? ' style="padding:0;text-align:left"' : ''}>${escape(across)}</p>
${renderLegend(drawn)}
</figure>`
}

function renderLegend({ legend }: Drawn): string {
  if (legend.length < 2) return ''
  const items = legend.map(
    ({ name, colour, dashed }) => `<li><i style="--c:${colour}"${dashed ? ' class="dashed"' : ''}></i>${escape(name)}</li>`,
  )
  return `<ul class="legend">${items.join('')}</ul>`
}

function renderTable({ title, about, columns, rows }: Table, figures: Figures): string {
  const cell = (content: Table['rows'][number][number]): string => {
    if (typeof content === 'string') return escape(content)
    const figure = figures[content.figure]
    if (!figure) return '–'
    return `${escape(showFigure(figure))}${figure.rounds.length > 1 ? `<small>${escape(showSpread(figure))}</small>` : ''}`
  }
  const body = rows.map(
    ([head, ...cells]) =>
      `<tr><th scope="row">${head === undefined ? '' : cell(head)}</th>${cells.map((content) => `<td>${cell(content)}</td>`).join('')}</tr>`,
  )
  return `<div class="card"><h3>${escape(title)}</h3>${about === undefined || about === '' ? '' : `<p>${escape(about)}</p>`}
<div class="scroll" role="region" aria-label="${escape(title)}" tabindex="0"><table${columns.length > 3 ? ' class="wide"' : ''}><thead><tr>${columns.map((name) => `<th scope="col">${escape(name)}</th>`).join('')}</tr></thead><tbody>${body.join('')}</tbody></table></div></div>`
}
