package transfer

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
)

// TestSorterIsBounded: whatever the length of a file, no more than the limit is in memory, no
// more files than a few levels are open, and the order is that of a stable sort.
func TestSorterIsBounded(t *testing.T) {
	for _, n := range []int{0, 1, 200, 20_000} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			dir := t.TempDir()
			s := newSorter(dir)
			s.limit, s.fan = 4000, 4
			rnd := rand.New(rand.NewPCG(3, 4)) //nolint:gosec // a test
			want := make([]record, n)
			files := 0
			for i := range want {
				want[i] = record{rnd.IntN(5), int64(rnd.IntN(50)), fmt.Appendf(nil, "%d-%s", i, bytes.Repeat([]byte{'x'}, rnd.IntN(40)))}
				if err := s.add(context.Background(), &want[i]); err != nil {
					t.Fatal(err)
				}
				files = max(files, len(s.runs))
			}
			if s.most > s.limit+100 || files > 4*6 {
				t.Errorf("%d bytes in memory, %d files", s.most, files)
			}
			slices.SortStableFunc(want, func(a, b record) int { return cmp.Or(cmp.Compare(a.device, b.device), cmp.Compare(a.time, b.time)) })
			next, err := s.sorted(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			var r record
			for i := range want {
				more, err := next(&r)
				if err != nil || !more || r.device != want[i].device || r.time != want[i].time || !bytes.Equal(r.object, want[i].object) {
					t.Fatalf("message %d is %+v, %v, %v; want %+v", i, r, more, err, want[i])
				}
			}
			if more, err := next(&r); more || err != nil {
				t.Fatalf("there is more: %v", err)
			}
			if err := s.close(); err != nil {
				t.Fatal(err)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("files are left: %v, %v", left, err)
			}
		})
	}
}
