package cli

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestServePrintsTheWay(t *testing.T) {
	s := newStation(t)
	_, printed := s.serve()
	for _, want := range []string{"Page and API", "http://127.0.0.1:", "ws://127.0.0.1:", "admin", "Password", "device add esp01 --type box --data ", s.dir} {
		if !strings.Contains(printed, want) {
			t.Errorf("%q is not in\n%s", want, printed)
		}
	}
}

func TestServeFaults(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	running := newStation(t)
	running.serve()
	tests := []struct {
		name string
		args []string
		want string
	}{
		{"taken port", []string{"--http", taken.Addr().String()}, "another program listens on " + taken.Addr().String()},
		{"no directory", []string{"--data", file}, file},
		{"unwritable directory", []string{"--data", "/proc/nowhere"}, "/proc/nowhere"},
		{"second hub", []string{"--data", running.dir}, "another Signalbox"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newStation(t).run(append([]string{"serve", "--devices", "127.0.0.1:0"}, tt.args...)...)
			r.want(t, ExitFailure, tt.want)
			if strings.Contains(r.err, "Usage") || strings.Contains(r.err, "goroutine") {
				t.Errorf("too much was said: %s", r.err)
			}
		})
	}
}

func TestAdminPasswordIsNotLostWithTheFirstStart(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	newStation(t).run("serve", "--http", taken.Addr().String(), "--devices", "127.0.0.1:0").want(t, ExitFailure, "the password, shown this once, is ")
}

// TestLive has a hub, simulated boxes and the commands that look at them and move them.
func TestLive(t *testing.T) {
	s := newStation(t)
	address, _ := s.serve()
	s.run("watch", "nobody").want(t, ExitNotFound, "nobody")

	ctx, stop := context.WithCancel(t.Context())
	boxes := make(chan result, 1)
	go func() {
		boxes <- runAs(ctx, "", []string{"SIGNALBOX_DATA=" + s.dir}, "sim", "--boxes", "2", "--stations", "0", "--interval", "50ms")
	}()
	watched := s.run("watch", "--count", "5", "--kind", "telemetry", "--json").want(t, ExitOK)
	lines := strings.Split(strings.TrimSpace(watched.out), "\n")
	if len(lines) != 5 {
		t.Fatalf("%d events: %s", len(lines), watched.out)
	}
	if e := decode[map[string]any](t, result{out: lines[0]}); e["kind"] != "telemetry" || !strings.HasPrefix(e["device"].(string), "sim-box-") || e["object"] == nil {
		t.Errorf("event %v", e)
	}
	s.run("watch", "--count", "2", "sim-box-1").want(t, ExitOK, "sim-box-1", "servo1=90")
	s.run("device", "list", "--online").want(t, ExitOK, "sim-box-1", "online")
	s.run("device", "show", "sim-box-1").want(t, ExitOK, "servo1 = 90")
	s.run("send", "sim-box-1", "servo1", "45", "--wait", "10s").want(t, ExitOK, "servo1 45 succeeded")
	sent := decode[map[string]any](t, s.run("send", "sim-box-1", "servo1", "50", "--wait", "--json").want(t, ExitOK))
	if sent["state"] != "succeeded" || sent["value"] != "50" {
		t.Errorf("command %v", sent)
	}
	s.run("send", "sim-box-1", "fly", "--wait", "10s").want(t, ExitDevice, "fly failed")
	s.run("send", "nobody", "servo1", "45").want(t, ExitNotFound)
	s.run("send", "--type", "rocket", "start").want(t, ExitNotFound, "rocket")
	s.run("send", "--type", "box", "servo2", "10", "--wait", "10s").want(t, ExitOK, "sim-box-1: servo2 10 succeeded", "sim-box-2: servo2 10 succeeded")
	s.run("history", "sim-box-1", "--last", "2").want(t, ExitOK, "servo1=")
	csv := s.run("history", "sim-box-1", "--from", "1h", "--csv", "--fields", "servo1,status").want(t, ExitOK).out
	if !strings.HasPrefix(csv, "time,received,servo1,status\n") || strings.Count(csv, "\n") < 3 {
		t.Errorf("csv %s", csv)
	}
	if all := s.run("history", "sim-box-1", "--from", "1h", "--csv").want(t, ExitOK).out; !strings.Contains(strings.SplitN(all, "\n", 2)[0], ",button1") {
		t.Errorf("csv %s", all)
	}
	s.run("__complete", "device", "show", "sim-").want(t, ExitOK, "sim-box-1", "sim-box-2")
	stop()
	(<-boxes).want(t, ExitOK, "logins")

	token := strings.TrimSpace(s.run("token", "create", "reader", "--scope", "read").want(t, ExitOK).out)
	remote := []string{"SIGNALBOX_URL=" + address, "SIGNALBOX_TOKEN=" + token}
	runAs(t.Context(), "", remote, "device", "list", "--limit", "1").want(t, ExitOK, "sim-box-1")
	runAs(t.Context(), "", remote, "device", "rm", "sim-box-1", "--yes").want(t, ExitRefused, "needs admin")
	runAs(t.Context(), "", remote[:1], "device", "list").want(t, ExitRefused, "needs a token")
	runAs(t.Context(), "", remote[:1], "device", "list", "--token", "sbx_wrong").want(t, ExitRefused)
}

func TestUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := "http://" + l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	runAs(t.Context(), "", nil, "device", "list", "--url", address, "--token", "x").want(t, ExitUnavailable, "does not answer")
}

// TestWatchWaitsForTheHub lets the hub go away and come back under a running watch.
func TestWatchWaitsForTheHub(t *testing.T) {
	s := newStation(t)
	start := func() (stop func()) {
		ctx, cancel := context.WithCancel(context.Background())
		out := &watchedWriter{text: "Ctrl-C", told: make(chan struct{})}
		ended := make(chan int, 1)
		go func() {
			ended <- Run(ctx, []string{"serve", "--data", s.dir, "--http", "127.0.0.1:0", "--devices", "127.0.0.1:0"}, strings.NewReader(""), out, &watchedWriter{told: make(chan struct{})}, nil)
		}()
		select {
		case <-out.told:
		case <-time.After(20 * time.Second):
			t.Error("the hub did not start")
		}
		return func() {
			cancel()
			<-ended
		}
	}
	stop := start()
	s.run("device", "add", "esp01", "--type", "box").want(t, ExitOK)
	said := &watchedWriter{text: "waiting for it", told: make(chan struct{})}
	out := &watchedWriter{text: `"kind":"command"`, told: make(chan struct{})}
	ended := make(chan int, 1)
	ready := make(chan struct{})
	go func() {
		close(ready)
		ended <- Run(t.Context(), []string{"watch", "--data", s.dir, "--count", "2", "--json", "--kind", "command"}, strings.NewReader(""), out, said, nil)
	}()
	<-ready
	// The watch may begin to listen after the first commands: send until it has heard one.
	for heard := false; !heard; {
		s.run("send", "esp01", "a", "--ttl", "1h", "--replace").want(t, ExitOK)
		select {
		case <-out.told:
			heard = true
		case code := <-ended:
			ended <- code
			heard = true
		case <-time.After(50 * time.Millisecond):
		}
	}
	stop()
	select {
	case <-said.told:
	case code := <-ended:
		if code != ExitOK {
			t.Fatalf("watch ended with %d: %s", code, said.seen.String())
		}
		start()()
		return // both events came before the hub went away
	case <-time.After(20 * time.Second):
		t.Fatal("watch did not notice that the hub is away")
	}
	stop = start()
	defer stop()
	for {
		s.run("send", "esp01", "b", "--ttl", "1h", "--replace").want(t, ExitOK)
		select {
		case code := <-ended:
			if code != ExitOK {
				t.Errorf("watch ended with %d: %s", code, said.seen.String())
			}
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
}
