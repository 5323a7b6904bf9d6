import signal


def main() -> None:
    """The program. While its modules are imported, Ctrl-C ends it without a trace."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from promptkit.cli import main as run

    run()


if __name__ == "__main__":
    main()
