"""`python -m sa_bench`."""

from sa_bench.commands.app import main

if __name__ == "__main__":
    main()
