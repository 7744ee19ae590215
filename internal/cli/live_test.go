package cli

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
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
			r := newStation(t).run(append([]string{"serve", "--devices", "127.0.0.1:0", "--mqtt", "off"}, tt.args...)...)
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
	s := newStation(t)
	failed := s.run("serve", "--http", taken.Addr().String(), "--devices", "127.0.0.1:0", "--mqtt", "off").want(t, ExitFailure, taken.Addr().String())
	if _, printed := s.serve(); !strings.Contains(printed, "Password ") && !strings.Contains(failed.err, "the password, shown this once, is ") {
		t.Errorf("nobody was told the password\nthe first start: %s\nthe second: %s", failed.err, printed)
	}
}

// complete asks as a shell does that has time.
func (s *station) complete(args ...string) result {
	s.t.Helper()
	var out, err bytes.Buffer
	shell := Program{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &err, Env: append(slices.Clone(s.env), "SIGNALBOX_DATA="+s.dir), completing: patience}
	code := shell.Run(s.t.Context(), append([]string{"__complete"}, args...))
	return result{code, out.String(), err.String()}.want(s.t, ExitOK)
}

// completes asks as a shell does, of a hub with the devices sim-box-1 and sim-box-2.
func completes(t *testing.T, s *station) {
	t.Helper()
	s.run("token", "create", "reader1").want(t, ExitOK)
	tests := []struct {
		args string
		want []string
		not  string
	}{
		{"device show sim-", []string{"sim-box-1\tbox\n", "sim-box-2"}, ""},
		{"device show sim-box-1 sim-", nil, "sim-box"},
		{"device rm sim-box-1 sim-", []string{"sim-box-2"}, "sim-box-1"},
		{"device rm --type ", []string{"box\n"}, ""},
		{"device list --type b", []string{"box\n"}, ""},
		{"device add --type ", []string{"box\n"}, ""},
		{"watch --type ", []string{"box\n"}, ""},
		{"watch --kind telemetry,", []string{"telemetry,presence\n"}, "telemetry,telemetry"},
		{"send --type ", []string{"box\n"}, ""},
		{"send sim-", []string{"sim-box-1"}, ""},
		{"send sim-box-1 s", []string{"servo1\n"}, ""},
		{"command list sim-", []string{"sim-box-1"}, ""},
		{"command show ", []string{"servo1 to sim-box-1, succeeded\n"}, ""},
		{"history --type ", []string{"box\n"}, ""},
		{"history sim-box-1 sim-", []string{"sim-box-2"}, "sim-box-1"},
		{"history sim-box-1 --order ", []string{"asc\ndesc\n"}, ""},
		{"history sim-box-1 --fields ", []string{"servo1\n", "status\n"}, "seq"},
		{"history sim-box-1 --fields servo1,", []string{"servo1,servo2\n"}, "servo1,servo1"},
		{"serve --log-level ", []string{"debug\ninfo\nwarn\nerror\n"}, ""},
		{"serve --log-format ", []string{"text\njson\n"}, ""},
		{"serve --set devices.l", []string{"devices.listen="}, ""},
		{"token create x --scope ", []string{"command\n"}, ""},
		{"token revoke ", []string{"reader1\t"}, ""},
		{"user passwd ", []string{"admin\n"}, ""},
		{"sim --misbehave ", []string{"half-open=\n"}, ""},
	}
	for _, tt := range tests {
		r := s.complete(strings.Split(tt.args, " ")...)
		for _, want := range tt.want {
			if !strings.Contains(r.out, want) {
				t.Errorf("%q offers %q, not %q", tt.args, r.out, want)
			}
		}
		if tt.not != "" && strings.Contains(r.out, tt.not) {
			t.Errorf("%q offers %q", tt.args, r.out)
		}
	}
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
	for _, name := range []string{"sim-box-1", "sim-box-2"} {
		s.run("watch", "--count", "3", "--kind", "telemetry", name).want(t, ExitOK, name, "servo1=90")
	}
	s.run("device", "list", "--online").want(t, ExitOK, "sim-box-1", "online")
	s.run("device", "show", "sim-box-1").want(t, ExitOK, "servo1 = 90")
	s.run("send", "sim-box-1", "servo1", "45", "--wait", "2m").want(t, ExitOK, "servo1 45 succeeded")
	sent := decode[map[string]any](t, s.run("send", "sim-box-1", "servo1", "50", "--wait", "2m", "--json").want(t, ExitOK))
	if sent["state"] != "succeeded" || sent["value"] != "50" {
		t.Errorf("command %v", sent)
	}
	s.run("send", "sim-box-1", "fly", "--wait", "2m").want(t, ExitDevice, "fly failed")
	s.run("send", "nobody", "servo1", "45").want(t, ExitNotFound)
	s.run("send", "--type", "rocket", "start").want(t, ExitNotFound, "rocket")
	s.run("send", "--type", "box", "servo2", "10", "--wait", "2m").want(t, ExitOK, "sim-box-1: servo2 10 succeeded", "sim-box-2: servo2 10 succeeded")
	s.run("history", "sim-box-1", "--last", "2").want(t, ExitOK, "servo1=")
	csv := s.run("history", "sim-box-1", "--from", "1h", "--csv", "--fields", "servo1,status").want(t, ExitOK).out
	if !strings.HasPrefix(csv, "time,received,servo1,status\n") || strings.Count(csv, "\n") < 3 {
		t.Errorf("csv %s", csv)
	}
	if all := s.run("history", "sim-box-1", "--from", "1h", "--csv").want(t, ExitOK).out; !strings.Contains(strings.SplitN(all, "\n", 2)[0], ",button1") {
		t.Errorf("csv %s", all)
	}
	completes(t, s)
	for _, args := range [][]string{{"watch", "--count", "3", "--kind", "telemetry"}, {"history", "sim-box-1"}, {"device", "show", "sim-box-1"}} {
		if r := s.run(args...).want(t, ExitOK, "servo1"); strings.Contains(r.out, "seq") || strings.Contains(r.out, "ts=") || strings.Contains(r.out, "type=") {
			t.Errorf("%v shows keys of the protocol: %s", args, r.out)
		}
	}
	s.run("history", "sim-box-1", "--json").want(t, ExitOK, `"seq":`, `"ts":`, `"type":"telemetry"`)
	s.run("history", "sim-box-1", "--fields", "seq").want(t, ExitOK, "  seq\n")
	stop()
	(<-boxes).want(t, ExitOK, "logins", "device rm --prefix sim-")
	if r := s.run("history", "sim-box-1", "--last", "3").want(t, ExitOK, "servo1"); strings.Contains(r.out, "seq") {
		t.Errorf("the history of a device that is away shows keys of the protocol: %s", r.out)
	}
	r := s.run("sim", "--boxes", "3", "--stations", "0", "--duration", "1s", "--interval", "50ms", "--rm").want(t, ExitOK, "Devices removed: 1")
	if strings.Contains(r.err, "stay") {
		t.Errorf("%s", r.err)
	}
	s.run("device", "show", "sim-box-3").want(t, ExitNotFound)
	s.run("sim", "--devices", "127.0.0.1:1").want(t, ExitUnavailable, "nothing answers on the device port 127.0.0.1:1")

	token := strings.TrimSpace(s.run("token", "create", "reader", "--scope", "read").want(t, ExitOK).out)
	remote := []string{"SIGNALBOX_URL=" + address, "SIGNALBOX_TOKEN=" + token}
	runAs(t.Context(), "", remote, "device", "list", "--limit", "1").want(t, ExitOK, "sim-box-1")
	runAs(t.Context(), "", remote, "device", "rm", "sim-box-1", "--yes").want(t, ExitRefused, "needs admin")
	runAs(t.Context(), "", remote[:1], "device", "list").want(t, ExitRefused, "needs a token")
	runAs(t.Context(), "", remote[:1], "device", "list", "--token", "sbx_wrong").want(t, ExitRefused)
}

func TestUnreachable(t *testing.T) {
	runAs(t.Context(), "", nil, "device", "list", "--url", "http://127.0.0.1:1", "--token", "x").want(t, ExitUnavailable, "does not answer")
}

// TestWatchWaitsForTheHub lets the hub go away and come back under a running watch.
func TestWatchWaitsForTheHub(t *testing.T) {
	s := newStation(t)
	start := func() (stop func()) {
		ctx, cancel := context.WithCancel(context.Background())
		out := &watchedWriter{text: "Ctrl-C", told: make(chan struct{})}
		ended := make(chan int, 1)
		go func() {
			ended <- Run(ctx, []string{"serve", "--data", s.dir, "--http", "127.0.0.1:0", "--devices", "127.0.0.1:0", "--mqtt", "off"}, strings.NewReader(""), out, &watchedWriter{told: make(chan struct{})}, nil)
		}()
		select {
		case <-out.told:
		case <-time.After(patience):
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
	case <-time.After(patience):
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
