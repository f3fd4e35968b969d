"""`python -m farabio_like.callbacks`: list every callback that ships, with one line each."""

import farabio_like.callbacks as callbacks

if __name__ == "__main__":
    width = max(map(len, callbacks.SHIPPED))
    for name in callbacks.SHIPPED:
        first = (getattr(callbacks, name).__doc__ or "").strip().splitlines()[0]
        print(f"{name:<{width}}  {first}")
