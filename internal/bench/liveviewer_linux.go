package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gobwas/ws"
	"github.com/tidwall/gjson"

	"signalbox/internal/sim"
)

// viewerBuffer is how much a viewer reads at a time.
const viewerBuffer = 256 << 10

// viewers watch the live stream over WebSocket and count what comes, as cheaply as it can be done:
// frames are told apart by their headers.
type viewers struct {
	list    []*viewer
	reading sync.WaitGroup
	latency *sim.Histogram // nil: it is not looked at
	err     atomic.Pointer[error]
}

// viewer is one.
type viewer struct {
	conn   net.Conn
	rest   []byte // read with the upgrade
	frames atomic.Int64
	bytes  atomic.Int64
	missed atomic.Int64
	record []byte // whole frames, up to its capacity
}

// watch connects n viewers that see all telemetry.
func watch(ctx context.Context, address, token string, n int, latency *sim.Histogram) (*viewers, error) {
	v := &viewers{latency: latency}
	dialer := ws.Dialer{
		Header:  ws.HandshakeHeaderHTTP(http.Header{"Authorization": {"Bearer " + token}}),
		Timeout: requestPatience,
	}
	query := url.Values{"kind": {"telemetry"}, "snapshot": {"false"}}
	for range n {
		conn, rest, _, err := dialer.Dial(ctx, "ws://"+address+"/api/v1/stream?"+query.Encode())
		if err != nil {
			return nil, errors.Join(fmt.Errorf("watch the live stream: %w", err), v.close())
		}
		one := &viewer{conn: conn}
		if rest != nil {
			one.rest, _ = rest.Peek(rest.Buffered())
		}
		v.list = append(v.list, one)
	}
	return v, nil
}

// read begins to read the streams of all but the first stalled viewers; these never read.
func (v *viewers) read(stalled int) {
	for _, one := range v.list[stalled:] {
		v.reading.Go(func() {
			if err := one.read(v.latency); !errors.Is(err, net.ErrClosed) {
				v.err.CompareAndSwap(nil, &err)
			}
		})
	}
}

// close ends the viewers and gives what went wrong while they watched.
func (v *viewers) close() error {
	failed := v.err.Load()
	for _, one := range v.list {
		_ = one.conn.Close() // nothing more is wanted
	}
	v.reading.Wait()
	if failed != nil {
		return fmt.Errorf("a viewer lost its stream: %w", *failed)
	}
	return nil
}

// sum gives what viewers have got: events, bytes, and events they were told that they missed.
func (v *viewers) sum() (frames, size, missed int64) {
	for _, one := range v.list {
		frames, size, missed = frames+one.frames.Load(), size+one.bytes.Load(), missed+one.missed.Load()
	}
	return frames, size, missed
}

// read reads until the connection ends, and gives the error that ended it.
func (o *viewer) read(latency *sim.Histogram) error {
	buf := make([]byte, viewerBuffer)
	have := copy(buf, o.rest)
	for {
		used, err := o.take(buf[:have], latency)
		if err != nil {
			return err
		}
		have = copy(buf, buf[used:have])
		if have == len(buf) {
			buf = append(buf, make([]byte, len(buf))...) // a large event
		}
		n, err := o.conn.Read(buf[have:])
		if err != nil {
			if errors.Is(err, io.EOF) {
				return errors.New("the hub ended it")
			}
			return err
		}
		have += n
		o.bytes.Add(int64(n))
	}
}

// take takes the whole frames at the beginning of b.
func (o *viewer) take(b []byte, latency *sim.Histogram) (used int, err error) {
	var frames int64
	defer func() { o.frames.Add(frames) }()
	now := time.Now()
	for {
		head, size, ok := frameSize(b[used:])
		if !ok || len(b)-used < head+size {
			return used, nil
		}
		whole := b[used : used+head+size]
		payload := whole[head:]
		used += head + size
		switch op := whole[0] & 0x0f; {
		case op == 1 && bytes.HasPrefix(payload, []byte(`{"kind":"telemetry"`)):
			frames++
			if latency != nil {
				recordAge(latency, payload, now)
			}
			if len(o.record)+len(whole) <= cap(o.record) {
				o.record = append(o.record, whole...)
			}
		case op == 1 && bytes.HasPrefix(payload, []byte(`{"kind":"lagged"`)):
			o.missed.Add(gjson.GetBytes(payload, "missed").Int())
		case op == 9:
			pong := ws.MaskFrame(ws.NewPongFrame(bytes.Clone(payload)))
			if err := ws.WriteFrame(o.conn, pong); err != nil {
				return used, err
			}
		case op == 8:
			return used, fmt.Errorf("the hub closed it: %s", payload[min(2, len(payload)):])
		}
	}
}

// recordAge takes down how long ago a message was made.
func recordAge(h *sim.Histogram, payload []byte, now time.Time) {
	const name = `"sent_us":`
	i := bytes.LastIndex(payload, []byte(name))
	if i < 0 {
		return
	}
	text := payload[i+len(name):]
	if end := bytes.IndexAny(text, ",}"); end > 0 {
		if us, err := strconv.ParseInt(string(text[:end]), 10, 64); err == nil {
			h.Record(now.Sub(time.UnixMicro(us)))
		}
	}
}
