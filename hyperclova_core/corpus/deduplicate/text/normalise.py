"""The comparison form over Arrow's bytes: one pass, no Python object a character. `forms.form_of` is the definition."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hyperclova_core.corpus.deduplicate.text.comparison_form import EMAIL_MASK, MASK_DIGITS, NUMBER_MASK
from hyperclova_core.foundation.jit import compiled


@compiled(inline=True)
def _in_local_part(byte: int) -> bool:
    return (
        (48 <= byte <= 57)
        or (65 <= byte <= 90)
        or (97 <= byte <= 122)
        or byte == 46
        or byte == 95
        or byte == 37
        or byte == 43
        or byte == 45
    )


@compiled(inline=True)
def _in_label(byte: int) -> bool:
    return (48 <= byte <= 57) or (65 <= byte <= 90) or (97 <= byte <= 122) or byte == 45


@compiled()
def _end_of_domain(data: npt.NDArray[np.uint8], at: int, end: int) -> int:
    """Where the domain after an @ ends, or -1 where none follows: labels joined by dots, at least two."""
    position = at
    while position < end and _in_label(data[position]):
        position += 1
    if position == at:
        return -1
    dots = 0
    while position + 1 < end and data[position] == 46 and _in_label(data[position + 1]):
        dots += 1
        position += 1
        while position < end and _in_label(data[position]):
            position += 1
    return position if dots else -1


@compiled()
def normalise(
    data: npt.NDArray[np.uint8],
    start: int,
    end: int,
    composed: bool,
    table: npt.NDArray[np.uint32],
    names: npt.NDArray[np.uint8],
    name_offsets: npt.NDArray[np.int64],
    name_masks: npt.NDArray[np.uint32],
    out: npt.NDArray[np.uint32],
    at: int,
    plain: npt.NDArray[np.uint32],
    whole: npt.NDArray[np.uint32],
) -> tuple[int, int, int, bool]:
    """The form of the UTF-8 bytes data[start:end], written to `out` from `at` on.

    Args:
        composed: the text is known to be NFC.
        plain, whole: where `whole` has room, it gets all letters and digits as they are, by the table `plain`.

    Returns:
        (where the form ends in `out`, letters before masks took their place, digits among them, whether the text has to
        be composed first, in which case the form is not to be used).
    """
    position, to, letters, digits = start, at, 0, 0
    local, local_start = 0, at  # bytes of the run that may become an e-mail's local part, and where it began in `out`
    run, run_start, joined = 0, at, False  # digits of the number being read; whether the next digit still belongs to it
    while position < end:
        byte = data[position]
        if byte < 0x80:
            point, width = np.uint32(byte), 1
        elif byte < 0xE0:
            point, width = np.uint32((byte & 0x1F) << 6 | (data[position + 1] & 0x3F)), 2
        elif byte < 0xF0:
            point = np.uint32((byte & 0x0F) << 12 | (data[position + 1] & 0x3F) << 6 | (data[position + 2] & 0x3F))
            width = 3
        else:
            point = np.uint32(
                (byte & 0x07) << 18
                | (data[position + 1] & 0x3F) << 12
                | (data[position + 2] & 0x3F) << 6
                | (data[position + 3] & 0x3F)
            )
            width = 4
        ascii_digit = 48 <= byte <= 57
        if run and not ascii_digit:
            separator = (byte == 45 or byte == 46) and joined
            if separator and position + 1 < end and 48 <= data[position + 1] <= 57:
                joined = False  # one separator only: the digit behind it joins again
            else:
                if MASK_DIGITS[0] <= run <= MASK_DIGITS[1]:
                    out[run_start] = np.uint32(NUMBER_MASK)
                    to = run_start + 1
                run = 0
        if byte == 64 and local:
            domain = _end_of_domain(data, position + 1, end)
            if domain >= 0:
                for inside in range(position + 1, domain):
                    if data[inside] != 45 and data[inside] != 46:
                        if whole.size:
                            whole[letters] = plain[data[inside]]
                        letters += 1
                        digits += 48 <= data[inside] <= 57
                out[local_start] = np.uint32(EMAIL_MASK)
                to = local_start + 1
                position, local = domain, 0
                continue
        if byte == 91:
            skipped = 0
            for name in range(name_masks.size):
                first, size = name_offsets[name], name_offsets[name + 1] - name_offsets[name]
                if position + size <= end:
                    same = True
                    for index in range(size):
                        if data[position + index] != names[first + index]:
                            same = False
                            break
                    if same:
                        out[to] = name_masks[name]
                        to += 1
                        skipped = size
                        for index in range(size):
                            letter = names[first + index]
                            if 65 <= letter <= 90:
                                if whole.size:
                                    whole[letters] = letter + 32
                                letters += 1
                        break
            if skipped:
                position += skipped
                local = 0
                continue
        if _in_local_part(byte):
            if not local:
                local_start = to
            local += 1
        else:
            local = 0
        if ascii_digit:
            if not run:
                run_start = to
            run += 1
            joined = True
        if point < table.size:
            value = table[point]
            if value & np.uint32(0x80000000):
                if not composed:
                    return to, 0, 0, True
                value &= np.uint32(0x7FFFFFFF)
            if value:
                out[to] = value
                to += 1
                if whole.size:
                    whole[letters] = plain[point] & np.uint32(0x7FFFFFFF)
                letters += 1
                digits += value == 48
        position += width
    if run and MASK_DIGITS[0] <= run <= MASK_DIGITS[1]:
        out[run_start] = np.uint32(NUMBER_MASK)
        to = run_start + 1
    return to, letters, digits, False
