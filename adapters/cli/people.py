"""`slash-mcp people`, `allow` and `deny`: who is served. A running gateway knows at once."""

from __future__ import annotations

import asyncio
import sys
import time
from argparse import Namespace
from dataclasses import asdict

from adapters.cli.cli import OK
from adapters.terminal.render import render
from adapters.terminal.screen import as_json_text, columns, say
from gateway import sentences
from gateway.invocations import LOCAL
from gateway.people import Listed, People
from gateway.replies import Reply, Table
from mcp_auth.config.load import load


def run_people(options: Namespace) -> int:
    everybody = _people(options).listed()
    if options.json:
        print(as_json_text({"people": [asdict(one) for one in everybody]}))
    elif everybody:
        print(_table(everybody))
    else:
        print(sentences.NOBODY)
    return OK


def run_allow(options: Namespace) -> int:
    paired = asyncio.run(_people(options).allow(options.who, LOCAL))
    say(sentences.let_in(paired))
    return OK


def run_deny(options: Namespace) -> int:
    principal = asyncio.run(_people(options).deny(options.who, LOCAL))
    say(sentences.shut_out(principal))
    return OK


def _people(options: Namespace) -> People:
    return People(load(options.config, options.home))


def _table(everybody: list[Listed]) -> str:
    now = time.time()
    rows = tuple((one.principal, sentences.person_line(one, now)) for one in everybody)
    return render(Reply((Table(rows),)), columns=columns(sys.stdout), color=False, now=now)
