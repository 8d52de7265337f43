"""A link as a QR code, for the phone that looks at the screen."""

from __future__ import annotations

import io
import shutil

# Light squares are drawn, so the colours are fixed: most cameras do not read the negative.
_ON_BLACK = "\x1b[97;40m"
_RESET = "\x1b[0m"


def qr_code(link: str, *, color: bool) -> str:
    """The link in half blocks, or nothing when the terminal is too small for it."""
    import qrcode

    code = qrcode.QRCode(error_correction=qrcode.constants.ERROR_CORRECT_L, border=2)
    code.add_data(link)
    code.make(fit=True)
    side = len(code.get_matrix())
    size = shutil.get_terminal_size((80, 24))
    if side > size.columns or side // 2 + 4 > size.lines:
        return ""
    drawn = io.StringIO()
    code.print_ascii(out=drawn, invert=True)
    lines = drawn.getvalue().rstrip("\n").splitlines()
    return "\n".join(f"{_ON_BLACK}{line}{_RESET}" for line in lines) if color else "\n".join(lines)
