"""What Slack gets back for a modal: it changes, asks again, or goes. Pure."""

from __future__ import annotations

from slack_bolt.response import BoltResponse

from adapters.slack import render
from adapters.slack.incoming import Submission
from gateway.replies import Reply, Text


def ack() -> BoltResponse:
    return BoltResponse(status=200, body="")


def working() -> BoltResponse:
    return _show(render.working_view())


def response_to(sent: Submission, reply: Reply, look: render.Look) -> BoltResponse:
    """The modal with what became of it, or with its input to be filled in once more."""
    block = None
    if sent.kind == render.TEXT_VIEW and not reply.ok:
        block = render.TEXT_VIEW
    elif reply.prompt is not None and sent.metadata.get("prompt") == reply.prompt.id:
        block = render.key_block(reply.prompt.id)
    if block is None:
        return _show(view_of(reply, look))
    return BoltResponse(status=200, body={"response_action": "errors", "errors": {block: render.problem_of(reply)}})


def view_of(reply: Reply, look: render.Look) -> render.Payload:
    if reply.prompt is None:
        return render.reply_view(reply, look)
    problem = render.problem_of(reply) if any(isinstance(block, Text) for block in reply.blocks) else None
    return render.key_view(reply.prompt, problem=problem)


def _show(view: render.Payload) -> BoltResponse:
    return BoltResponse(status=200, body={"response_action": "update", "view": view})
