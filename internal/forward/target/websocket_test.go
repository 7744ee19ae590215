package target

import (
	"bufio"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"signalbox"
	"signalbox/internal/forward"
)

// serveWebSocket calls handle for each connection.
func serveWebSocket(t testing.TB, handle func(context.Context, *websocket.Conn)) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Errorf("Accept: %v", err)
			return
		}
		defer conn.CloseNow()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		handle(ctx, conn)
	}))
	t.Cleanup(server.Close)
	return server
}

func webSocketSpec(server *httptest.Server) *forward.Spec {
	return &forward.Spec{Name: "f", To: "ws" + strings.TrimPrefix(server.URL, "http") + "/in?q=1", Timeout: 20 * time.Second}
}

// frame is what a receiver got.
type frame struct {
	kind websocket.MessageType
	body string
}

func TestWebSocketSettlesByPongs(t *testing.T) {
	got := make(chan frame, 20_000)
	server := serveWebSocket(t, func(ctx context.Context, conn *websocket.Conn) {
		defer close(got)
		conn.SetReadLimit(-1)
		for {
			kind, body, err := conn.Read(ctx)
			if err != nil {
				return
			}
			got <- frame{kind, string(body)}
		}
	})
	told := newSettlements()
	target := newTarget(t, webSocketSpec(server)).(*webSocketTarget)
	target.closing = patience
	sink := openOf(t, target, told)
	const n = 10_000
	list := messages(1, n)
	list[17].Body = []byte("\xff\xfe")
	list[18].Body = []byte(strings.Repeat("ö", 8*minWindow)) // larger than may be under way
	for first := 0; first < n; first += 500 {
		if err := sink.Send(within(t), list[first:first+500]); err != nil {
			t.Fatal(err)
		}
	}
	if err := sink.Flush(within(t)); err != nil {
		t.Fatal(err)
	}
	told.await(t, n)
	if err := sink.Send(within(t), messages(n+1, 1)); err != nil {
		t.Fatal(err)
	}
	closeSink(t, sink)
	if told.get() != n+1 {
		t.Errorf("Close settled up to %d, want %d", told.get(), n+1)
	}
	i := 0
	for f := range got {
		if i < n {
			want := frame{websocket.MessageText, string(list[i].Body)}
			if i == 17 {
				want.kind = websocket.MessageBinary
			}
			if f != want {
				t.Fatalf("frame %d is %v %.50q", i, f.kind, f.body)
			}
		}
		i++
	}
	if i != n+1 {
		t.Errorf("%d frames came, want %d", i, n+1)
	}
}

func TestWebSocketShowsItsCredentials(t *testing.T) {
	for _, c := range []struct {
		name string
		set  func(*forward.Spec)
		want string
	}{
		{"none", func(*forward.Spec) {}, ""},
		{"bearer", func(s *forward.Spec) { s.Secrets.Bearer = "abc" }, "Bearer abc"},
		{"basic", func(s *forward.Spec) { s.Username, s.Secrets.Password = "u", "p" }, "Basic dTpw"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := make(chan string, 1)
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				got <- r.Header.Get("Authorization")
				w.WriteHeader(http.StatusUnauthorized)
			}))
			defer server.Close()
			spec := webSocketSpec(server)
			c.set(spec)
			_, err := newTarget(t, spec).Open(within(t), settledNothing)
			if err == nil || !strings.Contains(err.Error(), "answered 401 Unauthorized") {
				t.Errorf("Open gave %v", err)
			}
			if a := <-got; a != c.want {
				t.Errorf("it showed %q, want %q", a, c.want)
			}
		})
	}
}

func TestWebSocketRefusesRedirects(t *testing.T) {
	server := httptest.NewServer(http.RedirectHandler("ws://127.0.0.1:9/other?token=hidden", http.StatusFound))
	defer server.Close()
	_, err := newTarget(t, webSocketSpec(server)).Open(within(t), settledNothing)
	if err == nil || !strings.Contains(err.Error(), "redirects (302) to ") || !strings.Contains(err.Error(), "127.0.0.1:9/other;") ||
		strings.Contains(err.Error(), "hidden") {
		t.Errorf("Open gave %v", err)
	}
}

func TestWebSocketTargetOnAnInnerNetwork(t *testing.T) {
	target, err := New(&forward.Spec{Name: "f", To: "ws://localhost:9/"}, false, nil, "/signalbox/test", quiet())
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	if _, err := target.Open(within(t), settledNothing); !errors.Is(err, forward.ErrTarget) || signalbox.CodeOf(err) != "target_not_allowed" {
		t.Errorf("Open gave %v", err)
	}
}

func TestWebSocketNoticesTheEnd(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(context.Context, *websocket.Conn)
		want string
	}{
		{"close frame", func(_ context.Context, c *websocket.Conn) { c.Close(websocket.StatusGoingAway, "enough of abcd") }, `(1001, "enough of ***")`},
		{"no close frame", func(_ context.Context, c *websocket.Conn) { c.CloseNow() }, "closed the connection"},
		{"a long message", func(ctx context.Context, c *websocket.Conn) {
			c.Write(ctx, websocket.MessageText, make([]byte, maxFrameBack+1))
			c.Read(ctx)
		}, "65536"},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := serveWebSocket(t, c.end)
			spec := webSocketSpec(server)
			spec.Secrets.Bearer = "abcd"
			told := newSettlements()
			sink := open(t, spec, told)
			if err := awaitBroken(t, sink); !strings.Contains(err.Error(), c.want) {
				t.Errorf("it says %q, want %q", err, c.want)
			}
			err := sink.Send(within(t), messages(1, 1))
			if unsent, is := errors.AsType[*forward.Unsent](err); !is || unsent.From != 1 {
				t.Errorf("a broken sink says %v, and that %+v cannot have left", err, unsent)
			}
			closeSink(t, sink)
			if told.get() != 0 {
				t.Error("something was settled")
			}
		})
	}
}

func TestWebSocketDropsWhatNobodyAskedFor(t *testing.T) {
	server := serveWebSocket(t, func(ctx context.Context, conn *websocket.Conn) {
		go func() {
			for range 1000 {
				if conn.Write(ctx, websocket.MessageText, make([]byte, 10_000)) != nil {
					return
				}
			}
		}()
		for {
			if _, _, err := conn.Read(ctx); err != nil {
				return
			}
		}
	})
	told := newSettlements()
	sink := open(t, webSocketSpec(server), told)
	if err := sink.Send(within(t), messages(1, 100)); err != nil {
		t.Fatal(err)
	}
	told.await(t, 100)
	closeSink(t, sink)
}

// What a replay plays has the position of what was sent before it, however much it is.
func TestWebSocketManyMessagesOfOnePosition(t *testing.T) {
	server := serveWebSocket(t, func(ctx context.Context, conn *websocket.Conn) {
		for {
			if _, _, err := conn.Read(ctx); err != nil {
				return
			}
		}
	})
	told := newSettlements()
	sink := open(t, webSocketSpec(server), told)
	list := messages(1, 500)
	for i := range list {
		list[i].Position, list[i].Body = 7, make([]byte, 1000)
	}
	if err := sink.Send(within(t), list); err != nil {
		t.Fatal(err)
	}
	if err := sink.Flush(within(t)); err != nil {
		t.Fatal(err)
	}
	told.await(t, 7)
	closeSink(t, sink)
}

func TestWebSocketReceiverThatNeverReads(t *testing.T) {
	for _, c := range []struct {
		name string
		n    int
	}{{"few messages", 1}, {"more than the buffers take", 10_000}} {
		t.Run(c.name, func(t *testing.T) {
			release := make(chan struct{})
			server := serveWebSocket(t, func(context.Context, *websocket.Conn) { <-release })
			defer close(release)
			told := newSettlements()
			sink := openOf(t, hasty(t, webSocketSpec(server)), told)
			list := messages(1, c.n)
			for i := range list {
				list[i].Body = make([]byte, 10_000)
			}
			sink.Send(within(t), list)
			if err := awaitBroken(t, sink); !errors.Is(err, errTakesNothing) {
				t.Errorf("it says %v", err)
			}
			closeSink(t, sink)
			if told.get() != 0 {
				t.Error("something was settled")
			}
		})
	}
}

func TestWebSocketCloseOfAReceiverThatNeverReads(t *testing.T) {
	release := make(chan struct{})
	server := serveWebSocket(t, func(context.Context, *websocket.Conn) { <-release })
	defer close(release)
	told := newSettlements()
	sink := open(t, webSocketSpec(server), told)
	if err := sink.Send(within(t), messages(1, 1)); err != nil {
		t.Fatal(err)
	}
	closeSink(t, sink)
	if told.get() != 0 {
		t.Error("something was settled")
	}
}

func TestWebSocketSlowReceiverIsWaitedFor(t *testing.T) {
	const n = 300
	got := make(chan int, 1)
	server := serveWebSocket(t, func(ctx context.Context, conn *websocket.Conn) {
		conn.SetReadLimit(1 << 20)
		i := 0
		defer func() { got <- i }()
		for {
			if _, _, err := conn.Read(ctx); err != nil {
				return
			}
			i++
			time.Sleep(time.Millisecond) // it is slow: this is what is tested, not waited for
		}
	})
	told := newSettlements()
	sink := open(t, webSocketSpec(server), told)
	list := messages(1, n)
	for i := range list {
		list[i].Body = make([]byte, 20_000)
	}
	if err := sink.Send(within(t), list); err != nil {
		t.Fatal(err)
	}
	if err := sink.Flush(within(t)); err != nil {
		t.Fatal(err)
	}
	closeSink(t, sink)
	if i := <-got; i != n {
		t.Errorf("%d frames came, want %d", i, n)
	}
}

func TestWebSocketTLS(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer conn.CloseNow()
		for {
			if _, _, err := conn.Read(r.Context()); err != nil {
				return
			}
		}
	}))
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	server.StartTLS()
	defer server.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	spec := &forward.Spec{Name: "f", To: "wss" + strings.TrimPrefix(server.URL, "https")}
	if _, err := newTarget(t, spec).Open(within(t), settledNothing); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a server of unknown name: %v", err)
	}
	spec.TLS.CA = ca
	told := newSettlements()
	sink := open(t, spec, told)
	if err := sink.Send(within(t), messages(1, 100)); err != nil {
		t.Fatal(err)
	}
	told.await(t, 100)
	closeSink(t, sink)
}

// Debian's python3-websockets is a receiver as people write them.
func TestWebSocketPython(t *testing.T) {
	ctx := within(t)
	cmd := exec.CommandContext(ctx, "/usr/bin/python3", filepath.Join("testdata", "receiver.py"))
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LANG=C.UTF-8", "PYTHONDONTWRITEBYTECODE=1"}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
	}()
	lines := bufio.NewScanner(out)
	next := func() string {
		if !lines.Scan() {
			t.Fatalf("the receiver says no more: %v", lines.Err())
		}
		return lines.Text()
	}
	told := newSettlements()
	sink := open(t, &forward.Spec{Name: "f", To: "ws://127.0.0.1:" + next() + "/", Timeout: patience}, told)
	list := messages(1, 1000)
	list[1].Body = []byte("\xff")
	if err := sink.Send(ctx, list); err != nil {
		t.Fatal(err)
	}
	for i := range list {
		want := fmt.Sprintf("str %d", len(list[i].Body))
		if i == 1 {
			want = "bytes 1"
		}
		if got := next(); got != want {
			t.Errorf("message %d came as %q, want %q", i, got, want)
		}
	}
	told.await(t, 1000)
	sink.Send(ctx, []forward.Message{{Position: 1001, Body: []byte("enough")}}) // may notice already
	if err := awaitBroken(t, sink); !strings.Contains(err.Error(), `1001, "enough"`) {
		t.Errorf("it says %v", err)
	}
	closeSink(t, sink)
}

func BenchmarkWebSocket(b *testing.B) {
	server := serveWebSocket(b, func(ctx context.Context, conn *websocket.Conn) {
		for {
			_, r, err := conn.Reader(ctx)
			if err != nil {
				return
			}
			io.Copy(io.Discard, r)
		}
	})
	benchmark(b, &forward.Spec{Name: "f", To: "ws" + strings.TrimPrefix(server.URL, "http")})
}
