package sim

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// patience bounds every wait of the tests.
const patience = time.Minute

// fakeHub is just enough of a hub to talk to: it knows one secret, keeps what is sent and says saved when told to.
type fakeHub struct {
	t      *testing.T
	server *httptest.Server
	events chan event // what happened, in order; read by next

	mu     sync.Mutex
	mute   bool // say no saved
	strict bool // store only what follows the seq before
	stored map[string][]uint64
	boots  map[string]string
	conns  map[string]*websocket.Conn
}

// event is one thing a device did.
type event struct {
	what   string // upgrade, auth, telemetry, ack, result, bad
	device string
	body   map[string]any
	header http.Header
	remote string
}

func newFakeHub(t *testing.T) *fakeHub {
	t.Helper()
	h := &fakeHub{t: t, events: make(chan event, 100_000), stored: map[string][]uint64{}, boots: map[string]string{}, conns: map[string]*websocket.Conn{}}
	h.server = httptest.NewServer(http.HandlerFunc(h.serve))
	t.Cleanup(h.server.Close)
	return h
}

func (h *fakeHub) addr() string { return strings.TrimPrefix(h.server.URL, "http://") }

func (h *fakeHub) serve(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
	if err != nil {
		return
	}
	defer c.CloseNow()
	c.SetReadLimit(1 << 20)
	h.events <- event{what: "upgrade", header: r.Header.Clone(), remote: r.RemoteAddr}
	device, v2 := "", false
	for {
		_, b, err := c.Read(r.Context())
		if err != nil {
			return
		}
		var m map[string]any
		if err := json.Unmarshal(b, &m); err != nil {
			h.events <- event{what: "bad", device: device}
			c.Close(websocket.StatusUnsupportedData, "no JSON")
			return
		}
		if device == "" {
			if m["password"] != "good" {
				h.events <- event{what: "refused", body: m}
				h.say(r.Context(), c, `{"error": "unauthorized"}`)
				c.Close(websocket.StatusNormalClosure, "")
				return
			}
			device, v2 = m["name"].(string), m["v"] == 2.0
			h.login(r.Context(), c, device, v2, m)
			continue
		}
		h.events <- event{what: m["type"].(string), device: device, body: m}
		if seq, ok := m["seq"].(float64); ok && v2 {
			h.keep(r.Context(), c, device, uint64(seq))
		}
	}
}

func (h *fakeHub) login(ctx context.Context, c *websocket.Conn, device string, v2 bool, m map[string]any) {
	h.mu.Lock()
	if boot, ok := m["boot"].(string); ok && boot != h.boots[device] {
		h.boots[device], h.stored[device] = boot, nil
	}
	saved := uint64(0)
	if list := h.stored[device]; len(list) > 0 {
		saved = list[len(list)-1]
	}
	h.conns[device] = c
	h.mu.Unlock()
	if v2 {
		h.say(ctx, c, fmt.Sprintf(`{"type":"auth_ok","name":%q,"time":1,"heartbeat":20,"saved":%d}`, device, saved))
	}
	h.events <- event{what: "auth", device: device, body: m}
}

func (h *fakeHub) keep(ctx context.Context, c *websocket.Conn, device string, seq uint64) {
	h.mu.Lock()
	list := h.stored[device]
	gap := h.strict && seq != uint64(len(list))+1
	mute := h.mute || gap
	if !mute {
		if len(list) == 0 || list[len(list)-1] < seq {
			h.stored[device] = append(list, seq)
		}
	}
	h.mu.Unlock()
	if !mute {
		h.say(ctx, c, fmt.Sprintf(`{"type":"saved","seq":%d}`, seq))
	}
}

func (h *fakeHub) say(ctx context.Context, c *websocket.Conn, text string) {
	_ = c.Write(ctx, websocket.MessageText, []byte(text)) // a device that is gone hears nothing
}

// tell sends text to a device.
func (h *fakeHub) tell(device, text string) {
	h.t.Helper()
	h.mu.Lock()
	c := h.conns[device]
	h.mu.Unlock()
	if err := c.Write(h.t.Context(), websocket.MessageText, []byte(text)); err != nil {
		h.t.Fatal(err)
	}
}

// cut ends a device's connection without a word.
func (h *fakeHub) cut(device string) {
	h.mu.Lock()
	c := h.conns[device]
	h.mu.Unlock()
	c.CloseNow()
}

// next waits for the next event for which want is true.
func (h *fakeHub) next(want func(event) bool) event {
	h.t.Helper()
	late := time.After(patience)
	for {
		select {
		case e := <-h.events:
			if want(e) {
				return e
			}
		case <-late:
			h.t.Fatal("what was waited for did not happen")
		}
	}
}

func is(what string) func(event) bool { return func(e event) bool { return e.what == what } }

// await waits until a condition that something else brings about holds.
func await(t *testing.T, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for late := time.After(patience); !cond(); {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("%s: did not happen in %v", what, patience)
		}
	}
}

// run lets f live until the test ends, and waits for it.
func run(t *testing.T, f func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run returned %v", err)
			}
		case <-time.After(patience):
			t.Error("Run did not end")
		}
	})
}
