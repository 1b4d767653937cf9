"""Messages of errors that the user can mend: one line each; a defect of ours keeps its traceback."""

import errno

OUT_OF_MEMORY = (
    "out of memory; nothing that is finished is lost. Run again on a machine with more, raise the limit that it runs "
    "under (`ulimit -v`, or the scheduler's), or ask for fewer or shorter windows"
)
WORDS_OF_NO_MEMORY = (
    "can't allocate memory",
    "Cannot allocate memory",
    "failed to map segment",
    "CUDA out of memory",
    "can't start new thread",
)
"""Messages by which torch and the loader of shared libraries report it, in errors without a type of their own."""

REMEDIES = {
    FileNotFoundError: "make it first (a stage writes its main file last), or correct the path",
    IsADirectoryError: "give a file, or remove the folder",
    NotADirectoryError: "give a folder, or remove the file that is in its way",
    PermissionError: "change its mode or owner, or give another path",
}
"""By the kinds of errors of the system that name a file and do not say what to do."""

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def message_of(error: BaseException) -> str | None:
    """The message of an error that the user can mend; None for any other."""
    if lacks_memory(error):
        first_line = str(error).partition("\n")[0] or type(error).__name__
        return f"{OUT_OF_MEMORY} ({first_line})"
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return f"{error}; free some space or write to another disk, and run again"
    for kind, remedy in REMEDIES.items():
        if isinstance(error, kind) and error.filename is not None:
            return f"{error.filename}: {error.strerror}; {remedy}"
    return str(error) if isinstance(error, (ValueError, OSError)) else None


def lacks_memory(error: BaseException) -> bool:
    """Whether an error, of whatever type, reports that there is not enough memory."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, (RuntimeError, ImportError)) and any(words in str(error) for words in WORDS_OF_NO_MEMORY)
