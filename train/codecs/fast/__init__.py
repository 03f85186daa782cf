"""g_a and g_s on a CPU by Winograd's algorithm; only speed is lost without this room.

Its one door is `fast_transforms.FastTransforms`, its one switch `model.fast_cpu`. All else is for
its own use. A large map goes block by block (some rows of tiles, at most 128) through three arrays
that each thread keeps; here a convolution's, of C channels to N; PITCH is 16 floats:

```text
map x                   points v                             products m            map y
[H, W, C]               of T tiles                           of T tiles            [h, w, N]

┌──┬──┬──┬┄   11 x 11   ┌ 25 points ─────────────────────┐   ┌─────────────────┐   ┌──┬──┬┄
│  │  │  │    values    │ point 0: tile 0 [4, C] .. T-1  │   │ 25 x [T, N]     │   │  │  │
├──┼──┼──┼┄   a tile,   │          PITCH                 │   ├─────────────────┤   ├──┼──┼┄
│  │  │  │    which     │ point 1: tile 0 [4, C] .. T-1  │   │  5 x [T, N]     │   │  │  │
┆  ┆  ┆  ┆    overlap   │          ...                   │   ├─────────────────┤   ┆  ┆  ┆
              by 3       ├ 5 points: even rows [2, C] ────┤   │  5 x [T, N]     │
    conv_points ──▶      ├ 5 points: even columns [2, C] ─┤   ├─────────────────┤   4 x 4
                         └ 1 point: even both [1, C] ─────┘   │  1 x [T, N]     │   a tile
                                                              └─────────────────┘
                         [T, phases * C] of each point ──▶     conv_results ──▶
                         times its matrix [phases * C, N]
```

A transposed convolution is the mirror image: [T, C] at each of 36 points, phases among the products
([T, 4 * N] at 25 points, [T, 2 * N] at 5 and at 5, [T, N] at 1), tiles of 6 x 6 values that overlap
by 2, and 8 x 8 results. Channels lie side by side in every array, sixteen to a vector. Small maps
go window by window: [positions, 25 * C] times one matrix, or the sum of [positions, 25 * N].

May import: data.system, train.codecs.layers.
"""
