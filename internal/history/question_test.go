package history_test

import (
	"fmt"
	"math/big"
	"math/rand/v2"
	"testing"
	"time"

	"signalbox/internal/history"
)

// TestBucketSums holds the sums of buckets to the exact ones: where a chunk tells its own, and
// where its rows are added up.
func TestBucketSums(t *testing.T) {
	b := start(t, t.TempDir(), history.Config{})
	rng := rand.New(rand.NewPCG(3, 4))
	begin := time.Now().Add(-time.Hour).Truncate(time.Second)
	const rows = 1024 // a chunk
	fields := []string{"huge", "same", "temp", "odd"}
	values := make([][]string, rows)
	for i := range values {
		values[i] = []string{
			"123456789012345678901234", "0.1", fmt.Sprintf("%.2f", 20+rng.NormFloat64()), fmt.Sprintf("%d.%de%d", rng.IntN(9), rng.IntN(1000), rng.IntN(30)),
		}
		v := values[i]
		e := telemetry(1, fmt.Sprintf(`{"huge":%s,"same":%s,"temp":%s,"odd":%s}`, v[0], v[1], v[2], v[3]))
		e.TimeMicros = begin.Add(time.Duration(i) * time.Second).UnixMicro()
		e = b.append(t, e, history.Soon)
		if i == rows-1 {
			b.wait(t, e.Position)
		}
	}
	at := func(i int) time.Time { return begin.Add(time.Duration(i) * time.Second) }
	for _, c := range []struct {
		name     string
		from, to int
	}{{"whole", 0, rows}, {"without the last", 0, rows - 1}, {"without the first", 1, rows}, {"half", 0, rows / 2}} {
		t.Run(c.name, func(t *testing.T) {
			got, err := b.log.Buckets(t.Context(), history.BucketQuery{Device: 1, Fields: fields, From: at(c.from), To: at(c.to), N: 1})
			if err != nil {
				t.Fatal(err)
			}
			for k, field := range fields {
				exact, size := big.NewFloat(0).SetPrec(300), big.NewFloat(0).SetPrec(300)
				rounded := big.NewFloat(0).SetPrec(300)
				for _, v := range values[c.from:c.to] {
					x, _, err := big.ParseFloat(v[k], 10, 300, big.ToNearestEven)
					if err != nil {
						t.Fatal(err)
					}
					exact.Add(exact, x)
					size.Add(size, x)
					f, _ := x.Float64()
					rounded.Add(rounded, big.NewFloat(f))
				}
				g := got[k][0]
				if g.Count != c.to-c.from {
					t.Fatalf("%s: %d numbers, want %d", field, g.Count, c.to-c.from)
				}
				off := new(big.Float).Sub(exact, big.NewFloat(g.Sum))
				if off.Abs(off).Cmp(size.SetMantExp(size, -52)) > 0 {
					t.Errorf("%s: the sum is %v, want %v", field, g.Sum, exact)
				}
				if want, _ := rounded.Float64(); field == "huge" && g.Sum != want {
					t.Errorf("%s: the sum is %v, want %v", field, g.Sum, want)
				}
			}
		})
	}
}
