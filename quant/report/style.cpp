#include "quant/report/style.h"

namespace cbq {

std::string_view report_style() {
  return R"(
:root {
  color-scheme: light dark;
  --paper: #fdfdfb; --ink: #20201d; --muted: #6c6b65; --rule: #e1e0da; --faint: #f4f3ee;
  --c0: #2759a8; --c1: #bf5f17; --c2: #2f7d4f; --c3: #8447a0; --c4: #0f7f8c; --c5: #b3364f; --c6: #7c6a12;
  --c7: #55606e;
}
@media (prefers-color-scheme: dark) { :root {
  --paper: #171716; --ink: #e7e5df; --muted: #9d9a92; --rule: #33322e; --faint: #201f1d;
  --c0: #82aef2; --c1: #eda168; --c2: #82c797; --c3: #c79be0; --c4: #6fc6d1; --c5: #ec8ba0; --c6: #cfbb5e;
  --c7: #aab4c0;
} }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 66rem; padding: 3rem 1.5rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 "Inter", "Segoe UI", "Helvetica Neue", "Noto Sans", "DejaVu Sans", Arial, sans-serif; }
h1 { margin: 0; font-size: 1.75rem; font-weight: 600; letter-spacing: -0.01em; line-height: 1.2;
  overflow-wrap: anywhere; }
h2 { margin: 3.5rem 0 1rem; padding-top: 0.6rem; border-top: 1px solid var(--ink); font-size: 1.15rem;
  font-weight: 600; }
h3 { margin: 2rem 0 0.6rem; font-size: 1rem; font-weight: 600; }
p { margin: 0.5rem 0; max-width: 44rem; overflow-wrap: anywhere; }
.sub, .note { color: var(--muted); }
.sub { max-width: none; }
.note { font-size: 0.875rem; max-width: 52rem; }
.lead { margin: 1.25rem 0; font-size: 1.2rem; line-height: 1.45; max-width: 46rem; }
.lead data { font-weight: 600; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 0.9375rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.4rem 1.25rem 0.4rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--rule); }
th { font-weight: 400; }
thead th { color: var(--muted); font-size: 0.8125rem; line-height: 1.3; vertical-align: bottom; }
.n { text-align: right; }
td.n { white-space: nowrap; }
th:last-child, td:last-child { padding-right: 0; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(27rem, 100%), 1fr)); gap: 2rem 2.5rem;
  margin-top: 1.25rem; }
figure { margin: 0; min-width: 0; break-inside: avoid; }
figcaption { margin-bottom: 0.5rem; font-size: 0.9375rem; font-weight: 600; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--muted); font-size: 11px; font-variant-numeric: tabular-nums; }
svg .axis { font-size: 11px; }
svg .number { fill: var(--ink); font-size: 10.5px; }
svg .inverted { fill: var(--paper); }
.grid { stroke: var(--rule); stroke-width: 1; }
.tick { stroke: var(--muted); stroke-width: 1; }
.line { fill: none; stroke: var(--c); stroke-width: 1.6; stroke-linejoin: round; }
.level { fill: none; stroke: var(--c); stroke-width: 1.4; stroke-dasharray: 5 4; }
circle { fill: var(--c); stroke: transparent; stroke-width: 8; }
.cell, .bar { fill: var(--c); }
.mark { stroke: var(--ink); stroke-width: 1.6; }
.legend { display: flex; flex-wrap: wrap; gap: 0.15rem 1.1rem; margin-top: 0.35rem; font-size: 0.8125rem;
  color: var(--muted); }
.legend i { display: inline-block; width: 1.1rem; margin-right: 0.4rem; vertical-align: middle; }
i.line { border-top: 2px solid var(--c); }
i.level { border-top: 2px dashed var(--c); }
i.box { height: 0.65rem; background: var(--c); }
i.mark { width: 0; height: 0.9rem; border-left: 2px solid var(--ink); }
.texts { display: grid; gap: 1.5rem 2.5rem; grid-template-columns: repeat(auto-fill, minmax(min(27rem, 100%), 1fr)); }
blockquote { margin: 0; padding-left: 1rem; border-left: 2px solid var(--rule); white-space: pre-wrap;
  overflow-wrap: anywhere; }
blockquote b { font-weight: 600; }
.of { display: block; color: var(--muted); font-size: 0.8125rem; }
details { margin-top: 1rem; }
summary { cursor: pointer; color: var(--muted); font-size: 0.9375rem; }
.keys { columns: 3 15rem; column-gap: 2.5rem; margin: 0; font-size: 0.875rem; font-variant-numeric: tabular-nums; }
.keys div { display: flex; justify-content: space-between; gap: 1rem; padding: 0.15rem 0; break-inside: avoid;
  border-bottom: 1px solid var(--rule); }
.keys dt { color: var(--muted); }
.keys dd { margin: 0; text-align: right; overflow-wrap: anywhere; min-width: 0; }
.keys .set dt, .keys .set dd { color: var(--ink); font-weight: 600; }
code { font: 0.875em "JetBrains Mono", "DejaVu Sans Mono", Consolas, monospace; overflow-wrap: anywhere; }
@media (max-width: 40rem) {
  body { padding: 1.75rem 1rem 3rem; }
  h1 { font-size: 1.4rem; }
  h2 { margin-top: 2.5rem; }
  .lead { font-size: 1.05rem; }
  th, td { padding-right: 0.35rem; }
  table { font-size: 0.8125rem; }
  thead th { font-size: 0.6875rem; line-height: 1.25; }
  svg text, svg .axis, svg .number { font-size: 12.5px; }
}
@media print {
  :root { --paper: #fff; --ink: #000; --muted: #555; --rule: #ccc; --faint: #fff;
    --c0: #2759a8; --c1: #bf5f17; --c2: #2f7d4f; --c3: #8447a0; --c4: #0f7f8c; --c5: #b3364f; --c6: #7c6a12;
  --c7: #55606e; }
  html { font-size: 10.5px; }
  body { padding: 0; max-width: none; font-size: 1rem; }
  .charts, .texts { grid-template-columns: 1fr 1fr; gap: 1.5rem 2rem; }
  h2 { margin-top: 2rem; }
  .cell, .bar, i.box { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  h2, h3, figcaption { break-after: avoid; }
}
)";
}

}  // namespace cbq
