package target

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"signalbox"
	"signalbox/internal/forward"
)

func signalPosition(p uint64) signalbox.Position { return signalbox.Position(p) }

// telemetry makes one message for each device, at the positions from first on.
func telemetry(first int, devices ...int) []forward.Message {
	out := make([]forward.Message, len(devices))
	for i, d := range devices {
		p := first + i
		body := fmt.Appendf(nil, `{"n":%d}`, p)
		out[i] = forward.Message{
			Position: signalPosition(uint64(p)), Device: signalbox.DeviceID(d), Name: fmt.Sprintf("d%d", d), Kind: "telemetry",
			Cursor: fmt.Sprintf("e-%d", p), TimeMicros: int64(p) * 1e6, ReceivedMicros: int64(p) * 1e6, Data: body,
			Body: fmt.Appendf(nil, `{"device":"d%d","data":%s}`, d, body), Topic: fmt.Sprintf("out/d%d", d),
		}
	}
	return out
}

func openHook(t *testing.T, spec *forward.Spec) (forward.Target, forward.Sink, *settlements) {
	t.Helper()
	target, err := newWebhook(spec, newGuard(spec, true, nil), "/signalbox/test", quiet())
	if err != nil {
		t.Fatal(err)
	}
	target.(*webhook).drain = patience
	t.Cleanup(func() { _ = target.Close() })
	a := newSettlements()
	return target, reopen(t, target, a), a
}

func reopen(t *testing.T, target forward.Target, a *settlements) forward.Sink {
	t.Helper()
	sink, err := target.Open(t.Context(), a.settled)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sink.Close() })
	return sink
}

func receive(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

func TestWebhookAnswers(t *testing.T) {
	elsewhere := receive(t, func(http.ResponseWriter, *http.Request) { t.Error("a redirect was followed") })
	huge := strings.Repeat("no \x00<b>\u2028", 1<<20)
	tests := []struct {
		name      string
		answer    http.HandlerFunc
		status    int // of a refusal; 0: none
		permanent bool
		after     time.Duration
		target    bool // forward.ErrTarget
		words     string
		drain     time.Duration // 0: as long as it takes
	}{
		{name: "200", answer: status(200)},
		{name: "201", answer: status(201)},
		{name: "204", answer: status(204)},
		{name: "200 with a huge body", answer: func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, huge) }},
		{name: "200 with a body that hangs", drain: 10 * time.Millisecond, answer: func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = io.WriteString(w, "wait")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}},
		{name: "300", answer: status(300), target: true, words: "300"},
		{name: "302", answer: redirect(302, elsewhere.URL+"/there?token=hidden"), target: true, words: "redirects (302) to " + elsewhere.URL + "/there;"},
		{name: "307", answer: redirect(307, elsewhere.URL), target: true, words: "redirects (307)"},
		{name: "304", answer: status(304), target: true, words: "304"},
		{name: "400", answer: status(400), status: 400, permanent: true, words: "400 Bad Request"},
		{name: "401", answer: status(401), status: 401, permanent: true},
		{name: "404", answer: status(404), status: 404, permanent: true},
		{name: "410", answer: status(410), status: 410, permanent: true},
		{name: "422 with words", answer: func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "no such\n station; your secret is bearer-secret", http.StatusUnprocessableEntity)
		}, status: 422, permanent: true, words: `422 Unprocessable Entity: "no such station; your secret is ***"`},
		{name: "422 with a secret that the quotation would cut", answer: func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, strings.Repeat("x", maxQuote-8)+" bearer-secret", http.StatusUnprocessableEntity)
		}, status: 422, permanent: true, words: `xxx ***"`},
		{name: "a redirect to a long address", answer: redirect(302, elsewhere.URL+"/"+strings.Repeat("y", 50_000)), target: true, words: "redirects (302)"},
		{name: "408", answer: status(408), status: 408},
		{name: "425", answer: status(425), status: 425},
		{name: "429 with seconds", answer: later(429, "17"), status: 429, after: 17 * time.Second},
		{name: "503 with an age", answer: later(503, "99999999999999999999999"), status: 503, after: time.Hour},
		{name: "503 with a past date", answer: later(503, "Mon, 02 Jan 2006 15:04:05 GMT"), status: 503},
		{name: "503 with nonsense", answer: later(503, "-3"), status: 503},
		{name: "400 with Retry-After", answer: later(400, "3"), status: 400, permanent: true},
		{name: "500 with a huge body", answer: func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = io.WriteString(w, huge)
		}, status: 500, words: `Internal Server Error: "no <b> no <b> no`},
		{name: "599", answer: status(599), status: 599, words: "the receiver answered 599"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := receive(t, test.answer)
			target, sink, a := openHook(t, &forward.Spec{Name: "f", To: s.URL + "/in?key=topsecret", Timeout: patience, Secrets: forward.Secrets{Bearer: "bearer-secret"}})
			if test.drain > 0 {
				target.(*webhook).drain = test.drain
			}
			err := sink.Send(t.Context(), telemetry(5, 1))
			refused, is := errors.AsType[*forward.Refused](err)
			switch {
			case test.status == 0 && !test.target:
				if err != nil || a.get() != 5 {
					t.Fatalf("got %v, settled %d", err, a.get())
				}
				return
			case test.target:
				if is || !errors.Is(err, forward.ErrTarget) {
					t.Fatalf("got %v", err)
				}
			case !is || refused.Status != test.status || refused.Permanent != test.permanent || refused.After != test.after || refused.Position != 5:
				t.Fatalf("got %+v (%v)", refused, err)
			}
			if !strings.Contains(err.Error(), test.words) || strings.Contains(err.Error(), "secret") && !strings.Contains(err.Error(), "secret is ***") || len(err.Error()) > 500 {
				t.Errorf("it says: %v", err)
			}
			if a.get() != 0 {
				t.Errorf("settled %d", a.get())
			}
		})
	}
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

func redirect(code int, to string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, code) }
}

func later(code int, after string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", after)
		w.WriteHeader(code)
	}
}

func TestRetryAfterDate(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, test := range []struct{ ahead, want time.Duration }{{time.Minute, time.Minute}, {-time.Minute, 0}, {48 * time.Hour, time.Hour}} {
		h := http.Header{"Retry-After": {now.Add(test.ahead).Format(http.TimeFormat)}}
		if got := retryAfter(h, now); got != test.want {
			t.Errorf("%s ahead: got %s, want %s", test.ahead, got, test.want)
		}
	}
}

func TestWebhookFaults(t *testing.T) {
	hang := func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // until then a server does not notice that the client is gone
		<-r.Context().Done()
	}
	reset := func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_ = c.(*net.TCPConn).SetLinger(0)
		_ = c.Close()
	}
	tests := []struct {
		name  string
		to    string
		words string
		begun signalbox.Position // the last message that may have left
	}{
		{"nobody listens", "http://" + nobody(t), "connection refused", 0},
		{"reset", receive(t, reset).URL, "", 3},
		{"a long line that is no HTTP", receive(t, func(w http.ResponseWriter, _ *http.Request) {
			c, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = io.WriteString(c, strings.Repeat("no HTTP ", 5000)+"\r\n\r\n")
			_ = c.Close()
		}).URL, "malformed HTTP", 3},
		{"closed", receive(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }).URL, "closed the connection without an answer", 3},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, sink, a := openHook(t, &forward.Spec{Name: "f", To: test.to, Timeout: patience, Parallel: 4})
			err := sink.Send(t.Context(), telemetry(1, 1, 2, 3, 1, 2, 3))
			if _, refused := errors.AsType[*forward.Refused](err); err == nil || refused || !strings.Contains(err.Error(), test.words) || a.get() != 0 || len(err.Error()) > 2*maxFault {
				t.Errorf("got %v, settled %d", err, a.get())
			}
			// Of the first three, one or more had a connection, or none could have.
			unsent, is := errors.AsType[*forward.Unsent](err)
			if !is || (unsent.From == 1) != (test.begun == 0) || unsent.From > test.begun+1 {
				t.Errorf("%+v cannot have left; up to %d may have", unsent, test.begun)
			}
		})
	}
	t.Run("no answer", func(t *testing.T) { synctest.Test(t, noAnswer) })
	t.Run("the context ends", func(t *testing.T) {
		started := make(chan struct{}, 8)
		s := receive(t, func(w http.ResponseWriter, r *http.Request) {
			started <- struct{}{}
			hang(w, r)
		})
		_, sink, _ := openHook(t, &forward.Spec{Name: "f", To: s.URL, Timeout: patience, Parallel: 2})
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			<-started
			cancel()
		}()
		if err := sink.Send(ctx, telemetry(1, 1, 2, 3)); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}

// noAnswer has a receiver that reads requests, and says nothing.
func noAnswer(t *testing.T) {
	target, sink, a := openHook(t, &forward.Spec{Name: "f", To: "http://receiver.example/", Timeout: 10 * time.Second, Parallel: 4})
	var reading sync.WaitGroup
	target.(*webhook).transport.DialContext = func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		reading.Go(func() { _, _ = io.Copy(io.Discard, theirs) })
		return ours, nil
	}
	began := time.Now()
	err := sink.Send(t.Context(), telemetry(1, 1, 2, 3, 1, 2, 3))
	if err == nil || !strings.Contains(err.Error(), "the receiver did not answer within 10s") || a.get() != 0 || time.Since(began) != 10*time.Second {
		t.Errorf("after %s: %v, settled %d", time.Since(began), err, a.get())
	}
	if unsent, is := errors.AsType[*forward.Unsent](err); !is || unsent.From != 4 {
		t.Errorf("%+v cannot have left; three of six may have", unsent)
	}
	reading.Wait()
}

// TestWebhookIdleConnection has a receiver that closes a connection when the second request comes.
func TestWebhookIdleConnection(t *testing.T) {
	var listen net.ListenConfig
	l, err := listen.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	marks := make(chan string, 16)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				r := bufio.NewReader(c)
				request, err := http.ReadRequest(r)
				if err != nil {
					return
				}
				body, _ := io.ReadAll(request.Body)
				marks <- string(body)
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				_, _ = http.ReadRequest(r) // the next finds it closed
			}()
		}
	}()
	_, sink, a := openHook(t, &forward.Spec{Name: "f", To: "http://" + l.Addr().String(), Timeout: patience})
	if err := sink.Send(t.Context(), telemetry(1, 1, 1, 1)); err != nil || a.get() != 3 {
		t.Fatalf("got %v, settled %d", err, a.get())
	}
	for i := range 3 {
		if body, want := <-marks, i > 0; strings.Contains(body, `"redelivered":true`) != want {
			t.Errorf("request %d: %s", i, body)
		}
	}
}

// TestWebhookRequest looks at what arrives.
func TestWebhookRequest(t *testing.T) {
	type arrived struct {
		header http.Header
		body   string
	}
	got := make(chan arrived, 1)
	s := receive(t, func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- arrived{r.Header, string(body)}
	})
	message := telemetry(3, 1)
	message[0].Redelivered = true
	tests := []struct {
		name   string
		spec   forward.Spec
		body   string
		header map[string]string
	}{
		{
			"cloud event",
			forward.Spec{Secrets: forward.Secrets{Bearer: "b"}},
			`{"specversion":"1.0","id":"e-3","source":"/signalbox/test","type":"io.signalbox.telemetry","subject":"d1","time":"1970-01-01T00:00:03.000Z","received":"1970-01-01T00:00:03.000Z","sequence":"00000000000000000003","redelivered":true,"datacontenttype":"application/json","data":{"n":3}}`,
			map[string]string{"Content-Type": "application/cloudevents+json; charset=utf-8", "Authorization": "Bearer b", "Webhook-Id": "e-3", "Webhook-Signature": "", "Ce-Id": "", "Accept-Encoding": "", "User-Agent": "signalbox"},
		},
		{
			"template",
			forward.Spec{Format: "template", ContentType: "text/csv", Username: "u", Secrets: forward.Secrets{Password: "p"}},
			string(message[0].Body),
			map[string]string{"Content-Type": "text/csv", "Authorization": "Basic dTpw", "Ce-Id": "e-3", "Ce-Specversion": "1.0", "Ce-Source": "/signalbox/test", "Ce-Type": "io.signalbox.telemetry", "Ce-Subject": "d1", "Ce-Redelivered": "true", "Ce-Sequence": "00000000000000000003"},
		},
		{"template, default type", forward.Spec{Format: "template"}, string(message[0].Body), map[string]string{"Content-Type": "text/plain; charset=utf-8", "Authorization": ""}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.spec.To, test.spec.Timeout = s.URL, patience
			_, sink, _ := openHook(t, &test.spec)
			if err := sink.Send(t.Context(), message); err != nil {
				t.Fatal(err)
			}
			a := <-got
			if a.body != test.body {
				t.Errorf("body %s\nwant %s", a.body, test.body)
			}
			for name, want := range test.header {
				if a.header.Get(name) != want {
					t.Errorf("%s is %q, want %q", name, a.header.Get(name), want)
				}
			}
		})
	}
}

// pythonReceiver verifies signatures with the program of docs/forward-webhooks.md, which is put
// before it.
const pythonReceiver = `
import http.server, json, sys
secret = base64.b64decode(sys.argv[1])
class Receiver(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        event = json.loads(body)
        fit = verify(secret, self.headers, body) and event["specversion"] == "1.0" and event["data"]["n"] >= 0
        self.send_response(204 if fit else 401)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *a): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
print(server.server_port, flush=True)
server.serve_forever()`

func TestWebhookPython(t *testing.T) {
	const secret = "c2lnbmFsYm94IHNpZ25zIHRoaXM="
	page, err := os.ReadFile("../../../docs/forward-webhooks.md")
	if err != nil {
		t.Fatal(err)
	}
	_, program, _ := strings.Cut(string(page), "```python\n")
	program, _, found := strings.Cut(program, "```")
	if !found {
		t.Fatal("the page has no program in Python")
	}
	command := exec.CommandContext(t.Context(), "python3", "-c", program+pythonReceiver, secret)
	out, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
	})
	var port int
	if _, err := fmt.Fscan(out, &port); err != nil {
		t.Fatal(err)
	}
	to := fmt.Sprintf("http://127.0.0.1:%d/", port)
	_, sink, a := openHook(t, &forward.Spec{Name: "f", To: to, Timeout: patience, Parallel: 4, Secrets: forward.Secrets{HMAC: "whsec_" + secret}})
	devices := make([]int, 100)
	for i := range devices {
		devices[i] = i % 7
	}
	if err := sink.Send(t.Context(), telemetry(1, devices...)); err != nil || a.get() != 100 {
		t.Fatalf("got %v, settled %d", err, a.get())
	}
	_, other, _ := openHook(t, &forward.Spec{Name: "f", To: to, Timeout: patience, Secrets: forward.Secrets{HMAC: "another"}})
	if refused, is := errors.AsType[*forward.Refused](other.Send(t.Context(), telemetry(1, 1))); !is || refused.Status != 401 {
		t.Errorf("another secret: got %v", refused)
	}
}

func TestWebhookTLS(t *testing.T) {
	protocols := make(chan int, 2)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { protocols <- r.ProtoMajor }))
	s.EnableHTTP2 = true
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.StartTLS()
	t.Cleanup(s.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	_, sink, a := openHook(t, &forward.Spec{Name: "f", To: s.URL, Timeout: patience, TLS: forward.TLS{CA: ca}})
	if err := sink.Send(t.Context(), telemetry(1, 1, 2)); err != nil || a.get() != 2 {
		t.Fatalf("got %v, settled %d", err, a.get())
	}
	if p := <-protocols; p != 2 {
		t.Errorf("HTTP/%d", p)
	}
	_, stranger, _ := openHook(t, &forward.Spec{Name: "f", To: s.URL, Timeout: patience})
	err := stranger.Send(t.Context(), telemetry(1, 1))
	if _, is := errors.AsType[*tls.CertificateVerificationError](err); !is {
		t.Errorf("an unknown authority: got %v", err)
	}
}

// TestWebhookGuard sets a target as somebody does who may not reach this computer.
func TestWebhookGuard(t *testing.T) {
	s := receive(t, func(http.ResponseWriter, *http.Request) { t.Error("it was reached") })
	spec := &forward.Spec{Name: "f", To: strings.Replace(s.URL, "127.0.0.1", "localhost", 1), Timeout: patience}
	target, err := newWebhook(spec, newGuard(spec, false, nil), "/s", quiet())
	if err != nil {
		t.Fatal(err)
	}
	sink := reopen(t, target, newSettlements())
	if err := sink.Send(t.Context(), telemetry(1, 1)); !errors.Is(err, forward.ErrTarget) || signalbox.KindOf(err) != signalbox.KindForbidden {
		t.Errorf("got %v", err)
	}
}

// recorder is a receiver that remembers, and refuses what it is told to.
type recorder struct {
	mu     sync.Mutex
	byName map[string][]int
	under  map[string]int
	all    int
	most   int
	count  map[int]int
	answer map[int][]int // of a message, one status after another that passes; then 200
	before func(n int)
	broken bool
}

func newRecorder() *recorder {
	return &recorder{byName: map[string][]int{}, under: map[string]int{}, count: map[int]int{}, answer: map[int][]int{}}
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	var e struct {
		Subject string
		Data    struct{ N int }
	}
	if err := json.NewDecoder(request.Body).Decode(&e); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	r.mu.Lock()
	r.all++
	r.under[e.Subject]++
	r.most = max(r.most, r.all)
	r.broken = r.broken || r.under[e.Subject] > 1
	r.mu.Unlock()
	if r.before != nil {
		r.before(e.Data.N)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all--
	r.under[e.Subject]--
	r.count[e.Data.N]++
	if codes := r.answer[e.Data.N]; len(codes) > 0 {
		if codes[0] >= 500 || codes[0] == http.StatusTooManyRequests {
			r.answer[e.Data.N] = codes[1:] // what passes
		}
		w.WriteHeader(codes[0])
		return
	}
	r.byName[e.Subject] = append(r.byName[e.Subject], e.Data.N)
}

// TestWebhookParallel holds the order of each device, and that devices go side by side.
func TestWebhookParallel(t *testing.T) {
	for _, parallel := range []int{1, 4, 64} {
		t.Run(fmt.Sprint(parallel), func(t *testing.T) {
			r := newRecorder()
			s := receive(t, r.ServeHTTP)
			if parallel > 1 {
				var four sync.WaitGroup // the first of four devices wait for each other
				four.Add(4)
				r.before = func(n int) {
					if n <= 4 {
						four.Done()
						four.Wait()
					}
				}
			}
			_, sink, a := openHook(t, &forward.Spec{Name: "f", To: s.URL, Timeout: patience, Parallel: parallel})
			devices := make([]int, 300)
			for i := range devices {
				devices[i] = i % 11 * (i % 3) // unevenly
			}
			copy(devices, []int{1, 2, 3, 4})
			for first := 1; first <= 301; first += 300 {
				if err := sink.Send(t.Context(), telemetry(first, devices...)); err != nil {
					t.Fatal(err)
				}
				if want := signalPosition(uint64(first + 299)); a.get() != want {
					t.Fatalf("settled %d, want %d", a.get(), want)
				}
			}
			total := 0
			for name, ns := range r.byName {
				total += len(ns)
				if !slices.IsSorted(ns) {
					t.Errorf("%s got %v", name, ns)
				}
			}
			if total != 600 || r.broken || r.most > parallel || parallel > 1 && r.most < 4 {
				t.Errorf("%d messages, at most %d at a time, two of one device at a time: %t", total, r.most, r.broken)
			}
		})
	}
}

// TestWebhookRefusals sends again, as the engine does, what was not settled.
func TestWebhookRefusals(t *testing.T) {
	tests := []struct {
		name    string
		refuse  map[int][]int
		dead    []int // positions that become dead letters
		refused int   // how many refusals Send tells
	}{
		{"one passes", map[int][]int{2: {503}}, nil, 1},
		{"one for good", map[int][]int{2: {422}}, []int{2}, 1},
		{"several", map[int][]int{3: {429, 500}, 4: {503}, 9: {400}, 12: {502}}, []int{9}, 5},
		{"the last", map[int][]int{12: {500, 500, 500}}, nil, 3},
		{"the first", map[int][]int{1: {410}}, []int{1}, 1},
	}
	for _, parallel := range []int{1, 3, 16} {
		for _, test := range tests {
			t.Run(fmt.Sprint(test.name, ", parallel ", parallel), func(t *testing.T) {
				r := newRecorder()
				for n, codes := range test.refuse {
					r.answer[n] = slices.Clone(codes)
				}
				s := receive(t, r.ServeHTTP)
				target, sink, a := openHook(t, &forward.Spec{Name: "f", To: s.URL, Timeout: patience, Parallel: parallel})
				all := telemetry(1, 1, 2, 3, 1, 2, 3, 4, 5, 1, 2, 3, 1)
				from, refusals := 0, 0
				var dead []int
				for from < len(all) {
					err := sink.Send(t.Context(), all[from:])
					if err == nil {
						break
					}
					refused, is := errors.AsType[*forward.Refused](err)
					if !is {
						t.Fatal(err)
					}
					if settled := a.get(); settled > refused.Position || settled+1 < refused.Position && settled != signalPosition(uint64(from)) {
						t.Fatalf("%d is refused while %d is settled", refused.Position, settled)
					}
					unsent, is := errors.AsType[*forward.Unsent](err)
					if last := signalbox.Position(len(all)); parallel == 1 && (is != (refused.Position < last) || is && unsent.From != refused.Position+1) {
						t.Fatalf("%d is refused, and %+v cannot have left", refused.Position, unsent)
					}
					refusals++
					from = int(refused.Position) - 1
					if refused.Permanent {
						dead = append(dead, int(refused.Position))
						from++
					}
					if !refused.Usable {
						t.Fatalf("%v ends the sink", err)
					}
					if parallel == 3 { // another may go on as well
						sink = reopen(t, target, a)
					}
				}
				if !slices.Equal(dead, test.dead) {
					t.Errorf("dead letters %v, want %v", dead, test.dead)
				}
				for n := 1; n <= len(all); n++ {
					want := 1 + len(test.refuse[n])
					if slices.Contains(test.dead, n) {
						want--
					}
					// With several at a time a second refusal is asked for again.
					if r.count[n] < want || r.count[n] > want && test.refuse[n] == nil {
						t.Errorf("message %d came %d times, want %d", n, r.count[n], want)
					}
				}
				for name, ns := range r.byName {
					if !slices.IsSorted(ns) {
						t.Errorf("%s got %v", name, ns)
					}
				}
				if parallel == 1 && refusals != test.refused {
					t.Errorf("%d refusals, want %d", refusals, test.refused)
				}
				if w, is := target.(*webhook); !is || len(w.beyond.done) != 0 {
					t.Errorf("it remembers %v", w.beyond.done)
				}
			})
		}
	}
}
