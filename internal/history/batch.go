package history

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/klauspost/compress/zstd"

	"signalbox"
)

// batch is a row of the intake log while it is being filled.
type batch struct {
	first      signalbox.Position
	n          int
	telemetry  int    // of n
	buf        []byte // entries, encoded
	received   int64  // of the first entry, µs
	prev       int64  // received time of the entry before
	committing bool
}

const (
	flagTime = 0x80
	flagSeq  = 0x40
	kindMask = 0x3f

	// entryHead is the most that an entry takes besides its body.
	entryHead = 1 + 5 + 10 + 10 + 8 + 10 + 5

	// maxEntry bounds what one decoded entry may claim, against broken rows.
	maxEntry = 1 << 26
)

// add encodes e behind what is there.
func (b *batch) add(e *signalbox.Entry) {
	if b.n == 0 {
		b.received, b.prev = e.ReceivedMicros, e.ReceivedMicros
	}
	kind := byte(e.Kind)
	late := e.ReceivedMicros - e.TimeMicros
	if late > 0 {
		kind |= flagTime
	}
	if e.Seq != 0 {
		kind |= flagSeq
	}
	buf := b.buf
	buf = append(buf, kind)
	buf = binary.AppendUvarint(buf, uint64(e.Device))
	buf = binary.AppendUvarint(buf, uint64(e.ReceivedMicros-b.prev))
	if late > 0 {
		buf = binary.AppendUvarint(buf, uint64(late))
	}
	if e.Seq != 0 {
		buf = binary.LittleEndian.AppendUint64(buf, e.Boot)
		buf = binary.AppendUvarint(buf, e.Seq)
	}
	buf = binary.AppendUvarint(buf, uint64(len(e.Body)))
	buf = append(buf, e.Body...)
	b.buf = buf
	b.prev = e.ReceivedMicros
	b.n++
}

// errBroken is wrapped by every error about a row that does not decode.
var errBroken = errors.New("a row of the intake log is broken")

// decode calls yield for each entry of a row's decompressed body. The entry and its body
// are only lent for the call. yield returning false ends it early.
func decode(first signalbox.Position, received int64, buf []byte, yield func(*signalbox.Entry) bool) error {
	var e signalbox.Entry
	e.ReceivedMicros = received
	for pos := first; len(buf) > 0; pos++ {
		d := decoder{buf: buf[1:]}
		e.Position = pos
		e.Kind = signalbox.EntryKind(buf[0] & kindMask)
		e.Device = signalbox.DeviceID(d.uvarint(1<<32 - 1))
		e.ReceivedMicros += int64(d.uvarint(1 << 62))
		e.TimeMicros, e.Boot, e.Seq = e.ReceivedMicros, 0, 0
		if buf[0]&flagTime != 0 {
			e.TimeMicros -= int64(d.uvarint(1 << 62))
		}
		if buf[0]&flagSeq != 0 {
			if boot := d.bytes(8); boot != nil {
				e.Boot = binary.LittleEndian.Uint64(boot)
			}
			e.Seq = d.uvarint(1<<64 - 1)
		}
		e.Body = d.bytes(int(d.uvarint(maxEntry)))
		if d.failed {
			return fmt.Errorf("%w: entry %d", errBroken, pos)
		}
		if !yield(&e) {
			return nil
		}
		buf = d.buf
	}
	return nil
}

// decoder reads varints; after a fault it gives zeros or nothing and failed is set.
type decoder struct {
	buf    []byte
	failed bool
}

func (d *decoder) uvarint(limit uint64) uint64 {
	v, n := binary.Uvarint(d.buf)
	if n <= 0 || v > limit {
		d.failed, d.buf = true, nil
		return 0
	}
	d.buf = d.buf[n:]
	return v
}

func (d *decoder) bytes(n int) []byte {
	if d.failed || n > len(d.buf) {
		d.failed, d.buf = true, nil
		return nil
	}
	b := d.buf[:n:n]
	d.buf = d.buf[n:]
	return b
}

// maxRowBytes bounds a row after decompression, against broken or hostile files.
const maxRowBytes = 1 << 28

// windowBytes is how far back the compression looks: a whole row of the default size. The
// library's default would hold 8 MiB for it.
const windowBytes = 256 << 10

func newEncoder() (*zstd.Encoder, error) {
	return zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(true), zstd.WithWindowSize(windowBytes))
}

func newDecoder() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(maxRowBytes))
}
