package api_test

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/api"
	"signalbox/internal/forward"
	"signalbox/internal/replay"
)

// fakeForwarders are forwarders that send nothing.
type fakeForwarders struct {
	mu   sync.Mutex
	all  map[string]*forward.Status
	keep map[string]forward.Secrets
	dead []forward.DeadLetter
	into replay.Sink
}

func newFakeForwarders() *fakeForwarders {
	f := &fakeForwarders{all: map[string]*forward.Status{}, keep: map[string]forward.Secrets{}}
	f.all["filed"] = &forward.Status{Spec: forward.Spec{Name: "filed", To: "https://example.org/x?key=s3cret-in-url"}, State: forward.StateWaiting, FromFile: true, Fault: `Post "https://example.org/x?key=s3cret-in-url": refused`, FaultAt: time.UnixMilli(1_700_000_000_000), HasSecrets: []string{"secret"}}
	for i := range 5 {
		f.dead = append(f.dead, forward.DeadLetter{ID: int64(5 - i), Position: signalbox.Position(100 - i), Device: "esp01", Attempts: 3, Status: 410, Reason: "410 Gone at https://example.org/x?key=s3cret-in-url", Body: []byte(`{"n":1}`)})
	}
	f.dead[4].Body = []byte{0xff, 0x00}
	return f
}

func (f *fakeForwarders) find(name string) (*forward.Status, error) {
	if s := f.all[name]; s != nil {
		return s, nil
	}
	return nil, signalbox.Errorf(signalbox.KindNotFound, "forwarder_not_found", "there is no forwarder %q", name)
}

func (f *fakeForwarders) List() []forward.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []forward.Status
	for _, s := range f.all {
		list = append(list, *s)
	}
	slices.SortFunc(list, func(a, b forward.Status) int { return strings.Compare(a.Spec.Name, b.Spec.Name) })
	return list
}

func (f *fakeForwarders) Get(name string) (forward.Status, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, err := f.find(name)
	if err != nil {
		return forward.Status{}, err
	}
	return *s, nil
}

func (f *fakeForwarders) set(spec forward.Spec, by string) (forward.Status, error) {
	if strings.Contains(spec.To, "127.0.0.1") {
		return forward.Status{}, signalbox.Wrap(signalbox.KindForbidden, "target_not_allowed", forward.ErrTarget, "the target %s is not allowed: see forward.allow", spec.To)
	}
	if err := spec.Check(); err != nil {
		return forward.Status{}, err
	}
	s := &forward.Status{State: forward.StatePaused, CreatedBy: by, CreatedAt: time.UnixMilli(1_700_000_000_000)}
	f.keep[spec.Name] = spec.Secrets
	for name, value := range map[string]string{"bearer": spec.Secrets.Bearer, "password": spec.Secrets.Password, "secret": spec.Secrets.HMAC} {
		if value != "" {
			s.HasSecrets = append(s.HasSecrets, name)
		}
	}
	slices.Sort(s.HasSecrets)
	spec.Secrets = forward.Secrets{}
	s.Spec = spec.Defaulted()
	f.all[spec.Name] = s
	return *s, nil
}

func (f *fakeForwarders) Add(_ context.Context, spec forward.Spec, by string) (forward.Status, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.all[spec.Name] != nil {
		return forward.Status{}, signalbox.Errorf(signalbox.KindConflict, "name_taken", "there is a forwarder %q already", spec.Name)
	}
	return f.set(spec, by)
}

func (f *fakeForwarders) Change(_ context.Context, name string, change func(*forward.Spec) error) (forward.Status, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, err := f.find(name)
	if err != nil {
		return forward.Status{}, err
	}
	spec := s.Spec
	spec.Secrets = f.keep[name]
	if err := change(&spec); err != nil {
		return forward.Status{}, err
	}
	return f.set(spec, s.CreatedBy)
}

func (f *fakeForwarders) Remove(_ context.Context, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, err := f.find(name)
	delete(f.all, name)
	return err
}

func (f *fakeForwarders) Pause(_ context.Context, name string, paused bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, err := f.find(name)
	if err == nil {
		s.Spec.Paused = paused
	}
	return err
}

func (f *fakeForwarders) DeadLetters(_ context.Context, name string, limit int, before int64) ([]forward.DeadLetter, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.find(name); err != nil {
		return nil, err
	}
	var list []forward.DeadLetter
	for _, l := range f.dead {
		if (before == 0 || l.ID < before) && len(list) < limit {
			list = append(list, l)
		}
	}
	return list, nil
}

func (f *fakeForwarders) Resend(_ context.Context, name string, ids []int64) (int, error) {
	return f.DropDead(context.Background(), name, ids)
}

func (f *fakeForwarders) DropDead(_ context.Context, name string, ids []int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.find(name); err != nil {
		return 0, err
	}
	if ids == nil {
		return len(f.dead), nil
	}
	return len(ids), nil
}

func (f *fakeForwarders) Sink(name string) (replay.Sink, error) {
	if _, err := f.Get(name); err != nil {
		return nil, err
	}
	return f.into, nil
}

func TestForwarders(t *testing.T) {
	fake, log := newFakeForwarders(), &bytes.Buffer{}
	h := newHub(t, func(c *api.Config) {
		c.Forwarders, c.Logger = fake, slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	const all = v1 + "/forwarders"
	secret := []string{"s3cret", "pass-word"}
	list := []scenario{
		{name: "list", method: "GET", url: all, as: "read", status: 200, want: []string{`"name":"filed"`, `"to":"https://example.org/x?key=***"`, `"from_file":true`, `"state":"waiting"`, `"fault":"Post \"https://example.org/x?key=***\": refused"`, `"secrets":["secret"]`}},
		{name: "list without a credential", method: "GET", url: all, status: 401},
		{name: "show unknown", method: "GET", url: all + "/nobody", as: "read", status: 404, want: []string{"forwarder_not_found"}},
		{name: "add as a reader", method: "POST", url: all, body: `{"name":"a","to":"tcp://example.org:9"}`, as: "command", status: 403},
		{name: "add", method: "POST", url: all, body: `{"name":"site","to":"tcp://example.org:9","types":["box"],"queue":{"max_age":"2d"},"backoff":{"min":"1s"},"timeout":"PT5S"}`, as: "admin", status: 201, want: []string{`"types":["box"]`, `"queue":{"max_entries":100000000,"max_age":"2d"}`, `"min":"1s"`, `"timeout":"5s"`, `"created_by":"test-admin"`, `"format":"json"`}, heads: map[string]string{"Location": "/api/v1/forwarders/site"}},
		{name: "add again", method: "POST", url: all, body: `{"name":"site","to":"tcp://example.org:9"}`, as: "admin", status: 409, want: []string{"name_taken"}},
		{name: "add with secrets", method: "POST", url: all, body: `{"name":"hook","to":"https://example.org/in?key=s3cret-in-url","secret":"s3cret-hmac","username":"u","password":"pass-word"}`, as: "admin", status: 201, want: []string{`"secrets":["password","secret"]`, `in?key=***`, `"attempts":20`}},
		{name: "add on loopback", method: "POST", url: all, body: `{"name":"in","to":"https://127.0.0.1/?key=s3cret-in-url"}`, as: "admin", status: 403, want: []string{"target_not_allowed", "forward.allow", "key=***"}},
		{name: "add without a target", method: "POST", url: all, body: `{"name":"in"}`, as: "admin", status: 400, want: []string{"invalid_target"}},
		{name: "add with a bad scheme", method: "POST", url: all, body: `{"name":"in","to":"ftp://s3cret-host/"}`, as: "admin", status: 400, want: []string{"ftp"}},
		{name: "add with files", method: "POST", url: all, body: `{"name":"in","to":"wss://example.org","tls":{"ca":"/etc/shadow"}}`, as: "admin", status: 403, want: []string{"file_not_allowed", "tls", "configuration"}},
		{name: "add with a password file", method: "POST", url: all, body: `{"name":"in","to":"wss://example.org","password_file":"/etc/shadow"}`, as: "admin", status: 403, want: []string{"file_not_allowed"}},
		{name: "add with an unknown member", method: "POST", url: all, body: `{"name":"in","to":"tcp://example.org:9","passwd":"s3cret-x"}`, as: "admin", status: 400, want: []string{"passwd"}},
		{name: "add with a bad duration", method: "POST", url: all, body: `{"name":"in","to":"tcp://example.org:9","timeout":"soon"}`, as: "admin", status: 400, want: []string{"duration"}},
		{name: "say which member", method: "POST", url: all, body: `{"name":"in","to":"tcp://example.org:9","queue":{"max_age":"forever"},"backoff":{"mim":"1s"},"qos":7,"typs":[],"bearer":5,"zzzz":1}`, as: "admin", status: 400, want: []string{
			`queue.max_age is \"forever\"; allowed is a duration such as`, `there is no member \"backoff.mim\" here; the nearest is \"backoff.min\"`, `qos is 7; allowed are whole numbers from 0 to 2`,
			`there is no member \"typs\" here; the nearest is \"types\"`, `bearer is 5; allowed is a text`, `there is no member \"zzzz\" here; known are ack, allow`,
		}},
		{name: "no object", method: "POST", url: all, body: `[]`, as: "admin", status: 400, want: []string{"the body is a list; allowed is an object"}},
		{name: "without a name", method: "POST", url: all, body: `{"to":"tcp://example.org:9"}`, as: "admin", status: 400, want: []string{`"detail":"name is missing"`}},
		{name: "a secret of the wrong kind is not repeated", method: "POST", url: all, body: `{"name":"in","to":"tcp://example.org:9","secret":["s3cret"],"parallel":"s3cret","bearer":"s3cret` + strings.Repeat("x", 16384) + `"}`, as: "admin", status: 400, want: []string{"secret is a list; allowed is a text", "parallel is a text", "bearer has 16390 characters"}},
		{name: "no tries", method: "POST", url: all, body: `{"name":"in","to":"http://example.org","attempts":0}`, as: "admin", status: 400, want: []string{"attempts is 0; allowed are 1 to 1000000"}},
		{name: "no queue", method: "POST", url: all, body: `{"name":"in","to":"http://example.org","queue":{"max_entries":0}}`, as: "admin", status: 400, want: []string{"queue.max_entries is 0; allowed are whole numbers from 1 to"}},
		{name: "no time", method: "POST", url: all, body: `{"name":"in","to":"http://example.org","timeout":"0s"}`, as: "admin", status: 400, want: []string{"timeout is 0; allowed are 100ms to 10m"}},
		{name: "no topic", method: "POST", url: all, body: `{"name":"in","to":"mqtt://example.org"}`, as: "admin", status: 400, want: []string{"mqtt needs a topic, such as hub/{device}"}},
		{name: "no template", method: "POST", url: all, body: `{"name":"in","to":"http://example.org","format":"template"}`, as: "admin", status: 400, want: []string{"the format template needs a template"}},
		{name: "add with a bad network", method: "POST", url: all, body: `{"name":"in","to":"tcp-listen://:9","allow":["all"]}`, as: "admin", status: 400, want: []string{"invalid_allow"}},
		{name: "add with a bad number", method: "POST", url: all, body: `{"name":"in","to":"http://example.org","parallel":65}`, as: "admin", status: 400, want: []string{"parallel"}},
		{name: "add with a bad format", method: "POST", url: all, body: `{"name":"in","to":"http://example.org","format":"xml"}`, as: "admin", status: 400, want: []string{"json", "viewer"}},
		{name: "add with too long a URL", method: "POST", url: all, body: `{"name":"in","to":"http://example.org/` + strings.Repeat("x", 2048) + `"}`, as: "admin", status: 400},
		{name: "take the password elsewhere", method: "PATCH", url: all + "/hook", body: `{"to":"https://other.example/in"}`, as: "admin", status: 400, want: []string{"secrets_needed", "password"}},
		{name: "take the password to another port", method: "PATCH", url: all + "/hook", body: `{"to":"https://example.org:8443/in"}`, as: "admin", status: 400, want: []string{"secrets_needed"}},
		{name: "take the password into the open", method: "PATCH", url: all + "/hook", body: `{"to":"http://example.org/in"}`, as: "admin", status: 400, want: []string{"secrets_needed"}},
		{name: "another path of the same receiver", method: "PATCH", url: all + "/hook", body: `{"to":"https://EXAMPLE.org/in?key=s3cret-in-url"}`, as: "admin", status: 200, want: []string{`"secrets":["password","secret"]`}},
		{name: "elsewhere with a password of its own", method: "PATCH", url: all + "/hook", body: `{"to":"https://other.example/in","password":"pass-word"}`, as: "admin", status: 200, want: []string{"other.example"}},
		{name: "and back", method: "PATCH", url: all + "/hook", body: `{"to":"https://example.org/in?key=s3cret-in-url","password":"pass-word"}`, as: "admin", status: 200},
		{name: "change", method: "PATCH", url: all + "/hook", body: `{"parallel":4,"types":["box"],"bearer":null,"queue":{"max_entries":5}}`, as: "admin", status: 200, want: []string{`"parallel":4`, `"types":["box"]`, `"secrets":["password","secret"]`, `"max_entries":5`, `"max_age":"7d"`}},
		{name: "take back", method: "PATCH", url: all + "/hook", body: `{"parallel":null,"types":null,"password":null,"username":null,"queue":null}`, as: "admin", status: 200, want: []string{`"parallel":1`, `"secrets":["secret"]`, `"max_entries":100000000`}, not: []string{`"types"`}},
		{name: "change to what is shown", method: "PATCH", url: all + "/hook", body: `{"to":"https://example.org/in?key=***"}`, as: "admin", status: 400, want: []string{"stands for what the hub does not show"}},
		{name: "change to loopback", method: "PATCH", url: all + "/hook", body: `{"to":"https://127.0.0.1/?k=s3cret-new"}`, as: "admin", status: 403, want: []string{"target_not_allowed"}},
		{name: "change the name", method: "PATCH", url: all + "/hook", body: `{"name":"other"}`, as: "admin", status: 400, want: []string{"no_renaming", "cannot be renamed"}},
		{name: "change nothing", method: "PATCH", url: all + "/hook", body: `{}`, as: "admin", status: 200},
		{name: "change unknown", method: "PATCH", url: all + "/nobody", body: `{}`, as: "admin", status: 404},
		{name: "pause", method: "POST", url: all + "/hook/pause", as: "admin", status: 200, want: []string{`"paused":true`}},
		{name: "resume", method: "POST", url: all + "/hook/resume", as: "admin", status: 200, want: []string{`"paused":false`}},
		{name: "pause as a reader", method: "POST", url: all + "/hook/pause", as: "read", status: 403},
		{name: "dead letters", method: "GET", url: all + "/filed/dead-letters?limit=2", as: "read", status: 200, want: []string{`"id":5`, `"id":4`, `"next":"`, `"body":"{\"n\":1}"`, `"status":410`, "key=***"}, not: []string{`"id":3`}},
		{name: "the last dead letter", method: "GET", url: all + "/filed/dead-letters?cursor=eAAAAAAAAAAC", as: "read", status: 200, want: []string{`"id":1`, `"body_base64":"/wA="`}, not: []string{`"id":2`, `"next"`}},
		{name: "another list's cursor", method: "GET", url: all + "/filed/dead-letters?cursor=ZGVzcDAx", as: "read", status: 400, want: []string{"invalid_cursor"}},
		{name: "too many dead letters", method: "GET", url: all + "/filed/dead-letters?limit=1001", as: "read", status: 400},
		{name: "resend some", method: "POST", url: all + "/filed/dead-letters/resend", body: `{"ids":[5,4]}`, as: "admin", status: 200, want: []string{`"count":2`}},
		{name: "resend all", method: "POST", url: all + "/filed/dead-letters/resend", as: "admin", status: 200, want: []string{`"count":5`}},
		{name: "resend none", method: "POST", url: all + "/filed/dead-letters/resend", body: `{"ids":[]}`, as: "admin", status: 400, want: []string{"no_ids"}},
		{name: "drop some", method: "DELETE", url: all + "/filed/dead-letters", body: `{"ids":[5]}`, as: "admin", status: 200, want: []string{`"count":1`}},
		{name: "drop as a reader", method: "DELETE", url: all + "/filed/dead-letters", as: "command", status: 403},
		{name: "remove", method: "DELETE", url: all + "/hook", as: "admin", status: 204},
		{name: "remove again", method: "DELETE", url: all + "/hook", as: "admin", status: 404},
	}
	for i := range list {
		list[i].not = append(list[i].not, secret...)
	}
	run(t, h, list)
	for _, s := range secret {
		if strings.Contains(log.String(), s) {
			t.Errorf("the log holds %s:\n%s", s, log)
		}
	}
	if got := fake.keep["hook"]; got.HMAC != "s3cret-hmac" || got.Password != "" {
		t.Errorf("the secrets kept are %+v", got)
	}
}

// takenSink takes what a replay plays.
type takenSink struct {
	marked bool
	taken  chan string
	ended  chan string
}

func (s *takenSink) CarriesMark() bool { return s.marked }

func (s *takenSink) Deliver(_ context.Context, _ *replay.Status, events []replay.Event) error {
	for i := range events {
		s.taken <- events[i].Device + " " + string(events[i].Object)
	}
	return nil
}

func (s *takenSink) Tell(_ context.Context, status *replay.Status) error {
	if status.State == replay.Ended {
		s.ended <- status.Reason
	}
	return nil
}

func (*takenSink) Idle(context.Context) error { return nil }

// TestReplayInto has the hub play by itself.
func TestReplayInto(t *testing.T) {
	sink := &takenSink{taken: make(chan string, 100), ended: make(chan string, 10)}
	viewers := &takenSink{taken: make(chan string, 100), ended: make(chan string, 10)}
	fake := newFakeForwarders()
	fake.into = sink
	var manager *replay.Manager
	h := newHub(t, func(c *api.Config) {
		manager = replay.New(replay.Config{History: c.History.(replay.History), NameOf: directory{c.Devices}.NameOf, Hub: "hub1", Max: 4})
		c.Replays, c.Forwarders, c.ReplayToViewers = manager, fake, func() (replay.Sink, error) { return viewers, nil }
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- manager.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		must(t, <-done)
	})
	b := h.connect(t, h.add(t, "esp01", "box"), signalbox.ProtocolV1)
	for range 3 {
		b.report(t, `{"type":"telemetry","n":1}`)
	}
	const url = v1 + "/replays"
	// Run begins in a goroutine of its own.
	deadline := time.Now().Add(patience)
	for w := h.ask("POST", url, `{"into":{"forwarder":"filed"},"speed":0,"unmarked":true}`, "admin", nil); w.Code != http.StatusCreated; w = h.ask("POST", url, `{"into":{"forwarder":"filed"},"speed":0,"unmarked":true}`, "admin", nil) {
		if time.Now().After(deadline) || w.Code != http.StatusServiceUnavailable {
			t.Fatalf("it gives %d %s", w.Code, w.Body)
		}
	}
	for range 3 {
		if got := receive(t, sink.taken); got != `esp01 {"type":"telemetry","n":1}` {
			t.Errorf("the forwarder got %s", got)
		}
	}
	if got := receive(t, sink.ended); got != "done" {
		t.Errorf("it ended with %s", got)
	}
	run(t, h, []scenario{
		{name: "unmarked", method: "POST", url: url, body: `{"into":{"viewers":true}}`, as: "admin", status: 400, want: []string{"replay_unmarked"}},
		{name: "to viewers", method: "POST", url: url, body: `{"into":{"viewers":true},"unmarked":true,"speed":0}`, as: "admin", status: 201, want: []string{`"into":"viewers"`, `"unmarked":true`}},
		{name: "not an admin", method: "POST", url: url, body: `{"into":{"viewers":true},"unmarked":true}`, as: "command", status: 403},
		{name: "nobody's forwarder", method: "POST", url: url, body: `{"into":{"forwarder":"nobody"}}`, as: "admin", status: 404, want: []string{"forwarder_not_found"}},
		{name: "both", method: "POST", url: url, body: `{"into":{"forwarder":"filed","viewers":true}}`, as: "admin", status: 400, want: []string{"invalid_into"}},
		{name: "neither", method: "POST", url: url, body: `{"into":{}}`, as: "admin", status: 400, want: []string{"invalid_into"}},
		{name: "unmarked to a listener", method: "POST", url: url, body: `{"unmarked":true}`, as: "admin", status: 400, want: []string{"invalid_unmarked"}},
	})
	if got := receive(t, viewers.ended); got != "done" {
		t.Errorf("to the viewers it ended with %s", got)
	}
	w := h.ask("GET", url, "", "read", nil)
	if !strings.Contains(w.Body.String(), `"into":"forwarder filed"`) || !strings.Contains(w.Body.String(), `"reason":"done"`) {
		t.Errorf("the list is %s", w.Body)
	}
}
