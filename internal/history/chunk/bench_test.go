package chunk_test

import (
	"math"
	"slices"
	"testing"

	"signalbox"
	"signalbox/internal/history/chunk"
)

type load struct {
	name string
	body func(seed uint64) func(i int) []byte
}

func loads() []load { return []load{{"box", box}, {"sensor", sensor}} }

func BenchmarkAppend(b *testing.B) {
	for _, l := range loads() {
		b.Run(l.name, func(b *testing.B) {
			rows := rowsOf(1, 100, 512, l.body(1))
			s := chunk.NewShapes(100)
			var r chunk.Run
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if i%len(rows) == 0 {
					r.Reset()
				}
				r.Append(s, &rows[i%len(rows)])
			}
		})
	}
}

// BenchmarkRunSize reports what a run of 40 rows takes in memory, a row.
func BenchmarkRunSize(b *testing.B) {
	for _, l := range loads() {
		b.Run(l.name, func(b *testing.B) {
			rows := rowsOf(1, 1000, 40, l.body(1))
			s := chunk.NewShapes(100)
			var warm chunk.Run
			warm.Append(s, &rows[0])
			warm.Append(s, &rows[1])
			var r chunk.Run
			for b.Loop() {
				r = chunk.Run{}
				for i := range rows {
					r.Append(s, &rows[i])
				}
			}
			b.ReportMetric(float64(r.Size())/float64(len(rows)), "B/row")
		})
	}
}

func fill(s *chunk.Shapes, rows []chunk.Row) *chunk.Run {
	var r chunk.Run
	for i := range rows {
		r.Append(s, &rows[i])
	}
	return &r
}

// alone encodes the rows as if no other device had sent any: what the order of all devices
// costs is missing.
func alone(b *testing.B, s *chunk.Shapes, rows []chunk.Row) []byte {
	b.Helper()
	rows = slices.Clone(rows)
	for i := range rows {
		rows[i].Position = rows[0].Position + signalbox.Position(i)
	}
	return chunkOf(b, s, rows)
}

func BenchmarkEncode(b *testing.B) {
	for _, l := range loads() {
		for _, size := range []struct {
			name       string
			devices, n int
		}{{"512of1000", 1000, 512}, {"40of1000", 1000, 40}, {"40of100000", 100_000, 40}} {
			b.Run(l.name+"/"+size.name, func(b *testing.B) {
				rows := rowsOf(1, size.devices, size.n, l.body(1))
				s := chunk.NewShapes(100)
				fill(s, rows)
				r := fill(s, rows)
				var t chunk.Table
				var blob []byte
				b.ReportAllocs()
				for b.Loop() {
					t.Reset()
					if err := t.AddRun(s, r); err != nil {
						b.Fatal(err)
					}
					t.Sort()
					var err error
					if blob, err = t.Encode(blob[:0], 0, t.Len()); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(len(blob))/float64(len(rows)), "bytes/msg")
				b.ReportMetric(float64(len(blob)-len(alone(b, s, rows)))/float64(len(rows)), "order-bytes/msg")
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(rows)), "ns/msg")
			})
		}
	}
}

func BenchmarkRead(b *testing.B) {
	for _, l := range loads() {
		rows := rowsOf(1, 1000, 512, l.body(1))
		s := chunk.NewShapes(100)
		fill(s, rows)
		var t chunk.Table
		if err := t.AddRun(s, fill(s, rows)); err != nil {
			b.Fatal(err)
		}
		blob, err := t.Encode(nil, 0, t.Len())
		if err != nil {
			b.Fatal(err)
		}
		perValue := func(b *testing.B) {
			b.Helper()
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(rows)), "ns/row")
		}
		var r chunk.Reader
		b.Run(l.name+"/load", func(b *testing.B) {
			for b.Loop() {
				if err := r.Load(s, blob); err != nil {
					b.Fatal(err)
				}
			}
			perValue(b)
		})
		for _, field := range []string{"temp", "uptime", "servo1", "button1"} {
			b.Run(l.name+"/load+"+field, func(b *testing.B) {
				var values []chunk.Value
				for b.Loop() {
					if err := r.Load(s, blob); err != nil {
						b.Fatal(err)
					}
					values = r.Field(field, values[:0])
				}
				perValue(b)
			})
		}
		b.Run(l.name+"/body", func(b *testing.B) {
			var body []byte
			for b.Loop() {
				if err := r.Load(s, blob); err != nil {
					b.Fatal(err)
				}
				for i := range r.Len() {
					body = r.AppendBody(body[:0], i)
				}
			}
			perValue(b)
		})
		b.Run(l.name+"/summary", func(b *testing.B) {
			for b.Loop() {
				if _, _, err := chunk.Summaries(blob, s, "servo1"); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkCursor reads 60 rows in the middle of a chunk of 1,024, and all of it in steps.
func BenchmarkCursor(b *testing.B) {
	for _, l := range loads() {
		rows := rowsOf(1, 1000, 1024, l.body(1))
		s := chunk.NewShapes(100)
		fill(s, rows)
		var t chunk.Table
		if err := t.AddRun(s, fill(s, rows)); err != nil {
			b.Fatal(err)
		}
		blob, err := t.Encode(nil, 0, t.Len())
		if err != nil {
			b.Fatal(err)
		}
		var c chunk.Cursor
		var batch chunk.Batch
		w := chunk.Want{Before: math.MaxUint64, From: math.MinInt64, To: math.MaxInt64, Bytes: math.MaxInt}
		read := func(b *testing.B, from, to, step int) {
			b.Helper()
			for b.Loop() {
				if err := c.Load(s, blob, chunk.ByTime); err != nil {
					b.Fatal(err)
				}
				c.PassBelow(&batch, rows[from].Time)
				for i := from; i < to; i += step {
					batch.Reset()
					w.UpTo = rows[min(i+step, to)-1].Time
					c.Read(&batch, 0, &w)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*(to-from)), "ns/row")
		}
		b.Run(l.name+"/middle", func(b *testing.B) { read(b, 500, 560, 60) })
		b.Run(l.name+"/all", func(b *testing.B) { read(b, 0, 1024, 64) })
	}
}
