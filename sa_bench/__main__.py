"""`python -m sa_bench`."""

from sa_bench.cli import main

if __name__ == "__main__":
    main()
