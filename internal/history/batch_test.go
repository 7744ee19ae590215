package history

import (
	"errors"
	"math/rand/v2"
	"testing"

	"signalbox"
)

func randomEntry(rng *rand.Rand, received int64) signalbox.Entry {
	e := signalbox.Entry{
		Kind: signalbox.EntryKind(1 + rng.IntN(4)), Device: signalbox.DeviceID(rng.Uint32() >> rng.IntN(32)),
		ReceivedMicros: received, TimeMicros: received, Body: make([]byte, rng.IntN(300)),
	}
	if rng.IntN(2) == 0 {
		e.TimeMicros -= rng.Int64N(received)
	}
	if rng.IntN(2) == 0 {
		e.Boot, e.Seq = rng.Uint64(), rng.Uint64()>>rng.IntN(63)|1
	}
	for i := range e.Body {
		e.Body[i] = byte(rng.Uint32())
	}
	return e
}

func TestBatchRoundTrip(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	for range 200 {
		first := signalbox.Position(1 + rng.Uint64()>>2>>rng.IntN(60))
		b := &batch{first: first}
		received := 1 + rng.Int64N(1<<52)
		var want []signalbox.Entry
		for range 1 + rng.IntN(50) {
			e := randomEntry(rng, received)
			e.Position = first + signalbox.Position(b.n)
			b.add(&e)
			want = append(want, e)
			received += rng.Int64N(1 << 20)
		}
		i := 0
		err := decode(first, b.received, b.buf, func(e *signalbox.Entry) bool {
			w := want[i]
			if e.Position != w.Position || e.Device != w.Device || e.Kind != w.Kind || e.ReceivedMicros != w.ReceivedMicros || e.TimeMicros != w.TimeMicros ||
				e.Boot != w.Boot || e.Seq != w.Seq || string(e.Body) != string(w.Body) {
				t.Errorf("entry %d: got %+v, want %+v", i, e, w)
			}
			i++
			return true
		})
		if err != nil || i != len(want) || b.n != i {
			t.Fatalf("%d of %d entries came back: %v", i, len(want), err)
		}
	}
}

// FuzzDecode feeds rows that no one wrote: nothing may panic, and each entry costs at least
// a byte of input.
func FuzzDecode(f *testing.F) {
	rng := rand.New(rand.NewPCG(9, 9))
	for range 5 {
		b := &batch{first: 1}
		for range 3 {
			e := randomEntry(rng, 1<<50)
			b.add(&e)
		}
		f.Add(b.buf)
	}
	f.Add([]byte{0xc1, 1, 0, 1, 2, 3})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		n, size := 0, 0
		err := decode(1, 0, b, func(e *signalbox.Entry) bool {
			n++
			size += len(e.Body)
			return e.Position == signalbox.Position(n)
		})
		if err != nil && !errors.Is(err, errBroken) {
			t.Fatal(err)
		}
		if n+size > len(b) {
			t.Fatalf("%d bytes gave %d entries with %d bytes of bodies", len(b), n, size)
		}
	})
}

// FuzzRow feeds compressed rows that no one wrote.
func FuzzRow(f *testing.F) {
	enc, err := newEncoder()
	if err != nil {
		f.Fatal(err)
	}
	dec, err := newDecoder()
	if err != nil {
		f.Fatal(err)
	}
	b := &batch{first: 1}
	e := randomEntry(rand.New(rand.NewPCG(1, 1)), 1<<50)
	b.add(&e)
	f.Add(enc.EncodeAll(b.buf, nil))
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd, 0xe0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}) // declares 2^63 bytes
	f.Fuzz(func(t *testing.T, packed []byte) {
		l := &Log{dec: dec}
		buf, err := l.unpackBody(1, 0, packed, nil, func(*signalbox.Entry) bool { return true })
		if err != nil && !errors.Is(err, errBroken) || len(buf) > maxRowBytes {
			t.Fatalf("%d bytes unpacked: %v", len(buf), err)
		}
	})
}
