"""`slash-mcp people`, `allow` and `deny`: who is served. A running gateway knows at once."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from dataclasses import asdict

from adapters.cli.ask import answer_once, tell
from adapters.cli.cli import OK
from adapters.terminal.render import render
from adapters.terminal.screen import as_json_text, columns
from gateway import sentences
from gateway.grammar import Allow, Deny
from gateway.people import Listed, People
from gateway.replies import Reply, Table
from mcp_auth.config.load import load


def run_people(options: Namespace) -> int:
    everybody = People(load(options.config, options.home)).listed()
    if options.json:
        print(as_json_text({"people": [asdict(one) for one in everybody]}))
    elif everybody:
        print(_table(everybody))
    else:
        print(sentences.NOBODY)
    return OK


def run_allow(options: Namespace) -> int:
    return tell(answer_once(load(options.config, options.home), options, Allow(options.who)))


def run_deny(options: Namespace) -> int:
    return tell(answer_once(load(options.config, options.home), options, Deny(options.who)))


def _table(everybody: list[Listed]) -> str:
    now = time.time()
    rows = tuple((one.principal, sentences.person_line(one, now)) for one in everybody)
    return render(Reply((Table(rows),)), columns=columns(sys.stdout), color=False, now=now)
