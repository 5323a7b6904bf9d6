import signal


def main() -> None:
    """The program. While its modules are imported, and once it has said its last word, Ctrl-C ends it without a trace."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from promptkit.cli import main as run

    try:
        run()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    main()
