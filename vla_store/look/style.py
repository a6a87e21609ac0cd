"""The style sheet of a report: one column, light and dark by the reader's setting, black on white on paper."""

STYLE = """
:root{--ink:#1d2430;--soft:#5c6675;--paper:#fff;--band:#f4f6f9;--line:#d9dee6;--bar:#3465a4;--empty:#e8ecf2;
--red:#c0392b;--green:#2e8b57;--blue:#2f6db5}
@media (prefers-color-scheme:dark){:root{--ink:#e3e7ee;--soft:#9aa5b5;--paper:#14181f;--band:#1c222c;--line:#343c49;
--bar:#7aa7e0;--empty:#262d38;--red:#ee7b6e;--green:#6cc596;--blue:#7db2f0}}
*{box-sizing:border-box}
html{font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;color:var(--ink);background:var(--paper)}
body{max-width:1120px;margin:0 auto;padding:24px}
h1{font-size:28px;margin:0 0 8px;overflow-wrap:anywhere}
h2{font-size:20px;margin:40px 0 12px;padding-bottom:4px;border-bottom:1px solid var(--line)}
h3{font-size:16px;margin:20px 0 8px}
a{color:var(--bar)}
code{font:.87em/1.4 ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace}
small{color:var(--soft);font-size:.8em}
nav{margin:16px 0 0;color:var(--soft)}
footer{margin-top:40px;color:var(--soft);border-top:1px solid var(--line);padding-top:12px}
.tiles{display:flex;flex-wrap:wrap;gap:12px;list-style:none;margin:16px 0;padding:0}
.tiles li{background:var(--band);border-radius:6px;padding:8px 16px;color:var(--soft)}
.tiles b{display:block;font-size:20px;color:var(--ink)}
.ids{color:var(--soft)}
.wide{overflow-x:auto}
table{border-collapse:collapse;margin:8px 0;font-variant-numeric:tabular-nums}
th,td{padding:4px 14px 4px 0;text-align:right;vertical-align:top;white-space:nowrap}
th{color:var(--soft);font-weight:normal;border-bottom:1px solid var(--line)}
th:first-child,td:first-child{text-align:left}
tbody tr+tr td{border-top:1px solid var(--band)}
table.prose th,table.prose td,table.words th,table.words td{text-align:left;white-space:normal;overflow-wrap:anywhere}
table.prose td:first-child{font-weight:600;white-space:nowrap}
table.prose td:nth-child(2){min-width:320px}
table.words td{min-width:80px}
table.words td:first-child{min-width:125px}
table.words th{white-space:nowrap;overflow-wrap:normal}
table.files td:nth-child(2){white-space:normal;overflow-wrap:anywhere;text-align:left;min-width:260px}
table.files th:nth-child(2),table.files :is(th,td):nth-child(n+5){text-align:left}
table.numbers td{vertical-align:middle;padding-top:1px;padding-bottom:1px}
table.numbers th:nth-child(-n+3),table.numbers td:nth-child(-n+3){text-align:left}
table.numbers small{display:inline-block}
table.sizes td:nth-child(2),table.sizes th:nth-child(2){text-align:left}
table.sizes td,table.lengths td{vertical-align:middle}
table.lengths th:nth-child(3){text-align:left}
td .chart{display:block}
.chart{fill:var(--bar)}
.chart text{fill:var(--soft);font-size:12px}
.chart .axis{stroke:var(--soft);fill:none}
.chart .grid{stroke:var(--line);fill:none}
.chart .empty{fill:var(--empty)}
.chart .line{fill:none;stroke:var(--ink);stroke-width:1.3}
.chart .red{stroke:var(--red)}
.chart .green{stroke:var(--green)}
.chart .blue{stroke:var(--blue)}
.large{max-width:100%;height:auto}
.ends{display:flex;justify-content:space-between;color:var(--soft);font-size:12px}
.tasks{display:grid;grid-template-columns:repeat(auto-fill,minmax(340px,1fr));gap:16px}
.task{margin:0;padding:12px;background:var(--band);border-radius:6px;min-width:0}
.pictures{display:flex;flex-wrap:wrap;align-items:flex-start;gap:6px;margin-bottom:8px}
.pictures img{display:block;border-radius:3px;width:calc(50% - 3px);height:auto;max-height:240px;
object-fit:contain;object-position:0 0}
.pictures .tiny{image-rendering:pixelated}
figcaption{overflow-wrap:anywhere}
figcaption p{margin:2px 0;color:var(--soft);font-size:.87em}
bdi{unicode-bidi:isolate}
@media screen and (max-width:760px){body{padding:12px}.tasks{grid-template-columns:1fr}table.words{min-width:640px}
table.prose thead{display:none}table.prose tr{display:block;padding:8px 0;border-top:1px solid var(--line)}
table.prose td,table.prose tbody tr+tr td{display:block;padding:0;border:0}table.prose td:nth-child(2){min-width:0}
table.prose td:nth-child(3){color:var(--soft)}}
@media print{:root{--ink:#000;--soft:#444;--paper:#fff;--band:#f6f6f6;--line:#bbb;--bar:#3465a4;--empty:#eee;
--red:#c0392b;--green:#2e8b57;--blue:#2f6db5}
html{font-size:10px}table.prose td:nth-child(2){min-width:200px}.tasks{grid-template-columns:repeat(3,1fr)}h2{margin-top:24px}
body{max-width:none;padding:0}nav{display:none}.wide{overflow:visible}
th,td{padding-right:8px}.chart,.task,.tiles li{print-color-adjust:exact;-webkit-print-color-adjust:exact}
tr,figure,svg{break-inside:avoid}h2,h3{break-after:avoid}thead{display:table-header-group}}
""".strip().replace("\n", "")
