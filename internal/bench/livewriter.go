package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// WriterOptions are what the plain loop of writes is told.
type WriterOptions struct {
	Listen  string
	File    string        // the frames to write, whole ones
	Sockets int           // how many readers to wait for
	Block   int           // bytes a write, in whole frames; 0: a write a frame
	For     time.Duration // how long to write
}

// RunWriter is what the live stream is compared with: it accepts readers, then writes the same frames to all of them
// in a plain loop, each frame to one after the other, with a goroutine a processor that has its share of the readers.
// It prints its address as one line, and in the end how many frames it has delivered, in how many writes.
func RunWriter(ctx context.Context, o WriterOptions, out io.Writer) (err error) {
	if _, err := openFiles(); err != nil {
		return err
	}
	text, err := os.ReadFile(o.File)
	if err != nil {
		return err
	}
	pieces := cut(text, o.Block)
	if len(pieces) == 0 {
		return fmt.Errorf("%s holds no whole frame", o.File)
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", o.Listen)
	if err != nil {
		return fmt.Errorf("the writer cannot listen on %s: %w", o.Listen, err)
	}
	defer func() { err = errors.Join(err, ln.Close()) }()
	if _, err := fmt.Fprintln(out, ln.Addr()); err != nil {
		return err
	}
	conns := make([]net.Conn, 0, o.Sockets)
	defer func() {
		for _, c := range conns {
			err = errors.Join(err, c.Close())
		}
	}()
	for len(conns) < o.Sockets {
		c, err := ln.Accept()
		if err != nil {
			return err
		}
		conns = append(conns, c)
	}
	frames, writes, err := writeAll(conns, pieces, o.For)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, frames, writes)
	return err
}

// piece is what one write takes.
type piece struct {
	bytes  []byte
	frames int64
}

// cut cuts text into pieces of whole frames of about block bytes, or of one frame.
func cut(text []byte, block int) (pieces []piece) {
	for len(text) > 0 {
		p := piece{}
		for end := 0; ; p.frames++ {
			head, size, ok := frameSize(text[end:])
			if !ok || len(text)-end < head+size || p.frames > 0 && end+head+size > block {
				p.bytes, text = text[:end], text[end:]
				break
			}
			end += head + size
		}
		if p.frames == 0 {
			break
		}
		pieces = append(pieces, p)
	}
	return pieces
}

func writeAll(conns []net.Conn, pieces []piece, d time.Duration) (frames, writes int64, err error) {
	var (
		group       sync.WaitGroup
		sum, calls  atomic.Int64
		failed      atomic.Pointer[error]
		workers     = runtime.GOMAXPROCS(0)
		until       = time.Now().Add(d)
		share, next = (len(conns) + workers - 1) / workers, conns
	)
	for len(next) > 0 {
		mine := next[:min(share, len(next))]
		next = next[len(mine):]
		group.Go(func() {
			for i := 0; time.Now().Before(until); i = (i + 1) % len(pieces) {
				for _, c := range mine {
					if _, err := c.Write(pieces[i].bytes); err != nil {
						failed.CompareAndSwap(nil, &err)
						return
					}
				}
				sum.Add(pieces[i].frames * int64(len(mine)))
				calls.Add(int64(len(mine)))
			}
		})
	}
	group.Wait()
	if err := failed.Load(); err != nil {
		return 0, 0, *err
	}
	return sum.Load(), calls.Load(), nil
}

// frameSize gives the lengths of the header and the payload of a server's frame (RFC 6455, section 5.2).
func frameSize(b []byte) (head, payload int, ok bool) {
	if len(b) < 2 {
		return 0, 0, false
	}
	switch n := int(b[1] & 0x7f); n {
	case 126:
		if len(b) < 4 {
			return 0, 0, false
		}
		return 4, int(binary.BigEndian.Uint16(b[2:])), true
	case 127:
		if len(b) < 10 {
			return 0, 0, false
		}
		return 10, int(binary.BigEndian.Uint64(b[2:])), true //nolint:gosec // a hub's own frame
	default:
		return 2, n, true
	}
}
