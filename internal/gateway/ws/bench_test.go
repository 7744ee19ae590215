package ws_test

import (
	"context"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"signalbox/internal/gateway/loop"
	"signalbox/internal/gateway/ws"
)

// quiet is an endpoint without anything of its own; all connections share one.
type quiet struct{ echo bool }

func (q *quiet) Upgrade(*ws.Request) (ws.Endpoint, *ws.Refusal) { return q, nil }
func (q *quiet) Opened(*ws.Conn)                                {}
func (q *quiet) Tick(*ws.Conn, time.Time)                       {}
func (q *quiet) Closed(*ws.Conn, error)                         {}

func (q *quiet) Receive(c *ws.Conn, _ bool, payload []byte) time.Duration {
	if q.echo {
		_ = c.Send(payload)
	}
	return 0
}

// serveQuiet runs q over the transport and returns the server and its address.
func serveQuiet(b *testing.B, transport int, q *quiet) (*ws.Server, string) {
	b.Helper()
	g, err := loop.New(loop.Config{CloseTimeout: 100 * time.Millisecond})
	if err != nil {
		b.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	server := ws.NewServer(ws.Config{}, q)
	go transports[transport].serve(g, context.Background(), ln, server)
	b.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		g.Close(ctx)
	})
	return server, ln.Addr().String()
}

func upgradeConn(b *testing.B, addr string) net.Conn {
	b.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := io.WriteString(nc, request+"\r\n"); err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 1024)
	if n, err := nc.Read(buf); err != nil || !strings.HasPrefix(string(buf[:n]), "HTTP/1.1 101") {
		b.Fatal(string(buf[:n]), err)
	}
	return nc
}

// BenchmarkPingPong measures one message to the server and back.
func BenchmarkPingPong(b *testing.B) {
	for i, name := range []string{"loop", "plain"} {
		b.Run(name, func(b *testing.B) {
			_, addr := serveQuiet(b, i, &quiet{echo: true})
			nc := upgradeConn(b, addr)
			defer nc.Close()
			out, in := []byte(text("0123456789")), make([]byte, 12)
			for b.Loop() {
				if _, err := nc.Write(out); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(nc, in); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkUpgrade measures connecting, upgrading and closing; the client's part is in it.
func BenchmarkUpgrade(b *testing.B) {
	_, addr := serveQuiet(b, 0, &quiet{})
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			nc := upgradeConn(b, addr)
			nc.(*net.TCPConn).SetLinger(0)
			nc.Close()
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "conns/s")
}

// BenchmarkSocket measures frames per second through sockets, 16 KiB per write; the client's part is in it.
func BenchmarkSocket(b *testing.B) {
	server, addr := serveQuiet(b, 0, &quiet{})
	one := text(`{"type":"telemetry","status":"ok","servo1":90,"servo2":90}`)
	batch := 16 << 10 / len(one)
	block := []byte(strings.Repeat(one, batch))
	nc := upgradeConn(b, addr)
	defer nc.Close()
	b.ResetTimer()
	for n := 0; n < b.N; n += batch {
		if _, err := nc.Write(block); err != nil {
			b.Fatal(err)
		}
	}
	want := int64((b.N + batch - 1) / batch * batch)
	for server.Stats().Messages.Load() < want {
		runtime.Gosched()
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "frames/s")
}

// BenchmarkIdle reports the heap that a pair of an idle upgraded connection and its client (a net.Conn, about 200 bytes)
// holds: what is freed when it ends.
func BenchmarkIdle(b *testing.B) {
	_, addr := serveQuiet(b, 0, &quiet{})
	const total = 4000
	for b.Loop() {
		var held, freed runtime.MemStats
		clients := make([]net.Conn, total)
		for i := range clients {
			clients[i] = upgradeConn(b, addr)
		}
		// What the clients and the server hold together, then without the server.
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&held)
		for _, nc := range clients {
			nc.Close()
		}
		clear(clients)
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&freed)
		b.ReportMetric((float64(held.HeapAlloc)-float64(freed.HeapAlloc))/total, "heap-bytes/pair")
	}
}
