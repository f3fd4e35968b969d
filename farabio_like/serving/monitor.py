"""The two pages of a service: the chart of the last hour, and the description of its paths. Nothing is fetched."""

from __future__ import annotations

import json
from html import escape
from typing import Any

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
h1{font-size:1.4rem}h2{font-size:1.05rem;margin:1.6rem 0 .2rem}svg{width:100%;height:11rem;background:#f7f7f7}
code,pre{background:#f2f2f2;padding:.1rem .3rem;border-radius:3px}td,th{padding:.15rem .8rem .15rem 0;text-align:left}
small{color:#666}.a,.b{fill:none;stroke:#1f77b4;stroke-width:2;stroke-linecap:round}.b{stroke:#d62728}
.bar{fill:#1f77b4}.bad{fill:#d62728}"""

_CHART = """
const box=(w,h,body)=>`<svg viewBox="0 0 ${w} ${h}" preserveAspectRatio="none">${body}</svg>`;
const line=(rows,key,top,name)=>{let d="",pen="M";rows.forEach((r,i)=>{if(r[key]===null){pen="M";return}
 d+=`${pen}${i*10+5},${105-100*r[key]/top}h.1`;pen="L"});return `<path class="${name}" d="${d}"/>`};
async function draw(){
 const answer=await fetch("monitor/hour");if(!answer.ok)return;
 const rows=await answer.json(),most=Math.max(1,...rows.map(r=>r.requests)),top=Math.max(1,...rows.map(r=>r.p99||0));
 requests.innerHTML=box(600,110,rows.map((r,i)=>`<rect class="bar" x="${i*10+1}" y="${105-100*r.requests/most}"`
  +` width="8" height="${100*r.requests/most}"/><rect class="bad" x="${i*10+1}" y="${105-100*r.errors/most}" width="8"`
  +` height="${100*r.errors/most}"/>`).join(""));
 times.innerHTML=box(600,110,line(rows,"p50",top,"a")+line(rows,"p99",top,"b"));
 mostRequests.textContent=most;mostTime.textContent=top;
 total.textContent=rows.reduce((s,r)=>s+r.requests,0);bad.textContent=rows.reduce((s,r)=>s+r.errors,0);
}
draw();setInterval(draw,5000);
"""


def monitor_page() -> str:
    """Return the page with the chart of the last hour; it asks for the numbers every five seconds."""
    return _page(
        "The last hour",
        '<p><b id="total">0</b> requests, <b id="bad">0</b> errors. A column is a minute, the last on the right.</p>'
        '<h2>Requests a minute</h2><small>up to <span id="mostRequests"></span>; red: errors</small>'
        '<div id="requests"></div><h2>Time of an answer</h2>'
        '<small>up to <span id="mostTime"></span> ms; blue: p50, red: p99</small><div id="times"></div>'
        f"<script>{_CHART}</script>",
    )


def docs_page(document: dict[str, Any]) -> str:
    """Return the description of the paths as a page.

    Parameters
    ----------
    document : dict
        Of OpenAPI.
    """
    parts = []
    for path, methods in document["paths"].items():
        for method, what in methods.items():
            kinds = ", ".join(what.get("requestBody", {}).get("content", {}))
            token = "; with a token" if what["security"] else ""
            parts.append(
                f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(what['summary'])}{token}</p>"
            )
            if kinds:
                parts.append(f"<p>Takes {escape(kinds)}.</p>")
            rows = "".join(
                f"<tr><td>{status}</td><td>{escape(each['description'])}</td></tr>"
                for status, each in what["responses"].items()
            )
            parts.append(f"<table>{rows}</table>")
    text = escape(json.dumps(document, indent=2))
    parts.append(f'<h2>OpenAPI</h2><p><a href="openapi.json">openapi.json</a></p><details><pre>{text}</pre></details>')
    return _page(document["info"]["title"], "".join(parts))


def _page(title: str, body: str) -> str:
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
    return f"<!doctype html><html lang=en><head>{head}</head><body><h1>{escape(title)}</h1>{body}</body></html>"
