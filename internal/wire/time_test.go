package wire_test

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"signalbox/internal/wire"
)

func TestAppendTime(t *testing.T) {
	const layout = "2006-01-02T15:04:05.000Z"
	check := func(micros int64) {
		t.Helper()
		want := time.UnixMicro(micros).UTC().Format(layout)
		if got := string(wire.AppendTime([]byte("at "), micros)); got != "at "+want {
			t.Errorf("%d µs: %s, want at %s", micros, got, want)
		}
	}
	day := 24 * time.Hour.Microseconds()
	for _, year := range []int{-1, 0, 1, 4, 100, 400, 1899, 1900, 1904, 1970, 1999, 2000, 2024, 2026, 2100, 2400, 9999, 10000} {
		start := time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()
		for d := range int64(367) {
			check(start + d*day)
			check(start + d*day - 1)
			check(start + d*day + 999)
		}
	}
	for _, micros := range []int64{0, 1, -1, 999, 1000, -1000, math.MaxInt64, math.MinInt64} {
		check(micros)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		check(r.Int64N(253_402_300_800_000_000+62_167_219_200_000_000) - 62_167_219_200_000_000)
	}
}

func BenchmarkAppendTime(b *testing.B) {
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = wire.AppendTime(buf[:0], 1_763_812_800_123_456)
	}
}
