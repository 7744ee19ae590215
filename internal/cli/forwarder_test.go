package cli

import (
	"bufio"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"signalbox/client"
)

// lineReceiver is a TCP receiver of lines.
func lineReceiver(t *testing.T) (address string, lines <-chan string) {
	t.Helper()
	var config net.ListenConfig
	l, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	got, stopped := make(chan string, 1000), make(chan struct{})
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				for in := bufio.NewScanner(conn); in.Scan(); {
					select {
					case got <- in.Text():
					case <-stopped:
						return
					}
				}
			}()
		}
	}()
	t.Cleanup(func() {
		close(stopped)
		_ = l.Close()
	})
	return l.Addr().String(), got
}

func nextLine(t *testing.T, lines <-chan string, part string) string {
	t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case line := <-lines:
			if strings.Contains(line, part) {
				return line
			}
		case <-deadline:
			t.Fatalf("no line with %s came", part)
		}
	}
}

func TestForwarderCommands(t *testing.T) {
	address, lines := lineReceiver(t)
	refusing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusGone)
	}))
	t.Cleanup(refusing.Close)
	s := newStation(t)
	s.run("forwarder", "add", "site", "tcp://"+address).want(t, ExitRefused, "target", "forward.allow", "configuration")
	config := "forward:\n  allow: [127.0.0.0/8]\n  forwarders:\n    - {name: filed, to: 'tcp://" + address + "', paused: true}\n"
	if err := os.WriteFile(filepath.Join(s.dir, "signalbox.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	s.run("forwarder", "add", "site", "tcp://"+address, "--type", "box", "--queue-age", "2d", "--backoff-max", "1s").want(t, ExitOK, "site: added", "No hub runs")
	s.run("forwarder", "list").want(t, ExitOK, "site", "no hub runs", "filed")
	s.run("forwarder", "resume", "filed").want(t, ExitRefused, "configuration")
	s.serve()
	s.simulate([]string{"sim-box-1"}, 2, "--boxes", "1").want(t, ExitOK)
	if line := nextLine(t, lines, `"kind":"telemetry"`); !strings.Contains(line, `"device":"sim-box-1"`) {
		t.Errorf("the line is %s", line)
	}

	// Secrets come from files, and are shown nowhere.
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("hmac-s3cret-of-hook\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	quiet := func(r result) result {
		t.Helper()
		if strings.Contains(r.out+r.err, "s3cret") {
			t.Errorf("a secret is shown: %s%s", r.out, r.err)
		}
		return r
	}
	quiet(s.feed(refusing.URL+"/in?key=s3cret-in-url\n", "forwarder", "add", "hook", "-", "--secret-file", key, "--attempts", "1", "--backoff-min", "10ms")).want(t, ExitOK, "hook: added")
	quiet(s.feed("bearer-s3cret\n", "forwarder", "change", "hook", "--bearer-file", "-")).want(t, ExitOK, "changed")
	f := decode[client.Forwarder](t, quiet(s.run("forwarder", "show", "hook", "--json")).want(t, ExitOK))
	if len(f.Secrets) != 2 || !strings.HasSuffix(f.To, "/in?key=***") || f.Attempts != 1 || f.FromFile {
		t.Errorf("the forwarder is %+v", f)
	}
	quiet(s.run("forwarder", "show", "hook")).want(t, ExitOK, "secrets", "bearer", "key=***")
	quiet(s.run("forwarder", "change", "hook", "--reset", "bearer")).want(t, ExitOK)
	quiet(s.run("config", "check", filepath.Join(s.dir, "signalbox.yaml"))).want(t, ExitOK)

	// What the receiver refuses for good is a dead letter.
	deadline := time.Now().Add(patience)
	var dead []client.DeadLetter
	for boxes := 2; len(dead) == 0; boxes++ { // one that was there before sends the same again, which is not stored
		if time.Now().After(deadline) {
			t.Fatalf("there are no dead letters: %s", s.run("forwarder", "show", "hook").out)
		}
		s.simulate([]string{"sim-box-" + strconv.Itoa(boxes)}, 2, "--boxes", strconv.Itoa(boxes)).want(t, ExitOK)
		dead = decode[[]client.DeadLetter](t, quiet(s.run("forwarder", "dead", "hook", "--json")).want(t, ExitOK))
	}
	if l := dead[0]; l.Status != http.StatusGone || !strings.HasPrefix(l.Device, "sim-box-") || l.Body == "" {
		t.Errorf("the dead letter is %+v", l)
	}
	s.run("forwarder", "pause", "hook").want(t, ExitOK, "hook: paused")
	s.run("forwarder", "dead", "hook", "--limit", "1").want(t, ExitOK, "sim-box-", "REASON")
	s.run("forwarder", "resend", "hook").want(t, ExitUsage, "--all")
	s.run("forwarder", "resend", "hook", "x").want(t, ExitUsage, "ID")
	s.run("forwarder", "drop", "hook", "--all", "--yes").want(t, ExitOK, "dropped")

	// A replay goes there, too.
	for len(lines) > 0 {
		<-lines
	}
	s.run("replay", "--to-forwarder", "site", "--speed", "max").want(t, ExitOK, "forwarder site", "has ended")
	nextLine(t, lines, `"replay":{`)
	s.run("replay", "--to-forwarder", "nobody").want(t, ExitNotFound, "nobody")
	s.run("replay", "--to-viewers").want(t, ExitFailure)

	s.complete("forwarder", "show", "").want(t, ExitOK, "site", "hook")
	s.complete("replay", "--to-forwarder", "si").want(t, ExitOK, "site")
	s.run("forwarder", "rm", "filed", "--yes").want(t, ExitRefused, "configuration")
	s.run("forwarder", "rm", "hook").want(t, ExitUsage, "--yes")
	s.run("forwarder", "drop", "hook", "--all").want(t, ExitUsage, "--yes")
	s.run("forwarder", "rm", "nobody", "hook", "nobody2", "--yes").want(t, ExitNotFound, "hook: removed", `"nobody"`, `"nobody2"`)
	s.run("forwarder", "show", "hook").want(t, ExitNotFound, "hook")
}

// TestForwarderFlags: what is wrong with a command line is said before anything is done.
func TestForwarderFlags(t *testing.T) {
	s := newStation(t)
	for _, tt := range []struct {
		name, stdin string
		args        []string
		want        string
	}{
		{"no target", "", []string{"add", "x"}, "missing"},
		{"two of standard input", "a\n", []string{"add", "x", "-", "--secret-file", "-"}, "cannot both"},
		{"empty standard input", "", []string{"add", "x", "-"}, "no line"},
		{"a missing file", "", []string{"add", "x", "https://example.org", "--secret-file", "/nowhere/key"}, "cannot be read"},
		{"asked without a terminal", "", []string{"add", "x", "https://example.org", "--ask-secret"}, "no terminal"},
		{"asked and a file", "", []string{"add", "x", "https://example.org", "--ask-secret", "--secret-file", "f"}, "exclude each other"},
		{"a bad kind", "", []string{"add", "x", "tcp://example.org:9", "--kind", "news"}, "telemetry"},
		{"a bad format", "", []string{"add", "x", "tcp://example.org:9", "--format", "xml"}, "viewer"},
		{"a bad duration", "", []string{"add", "x", "tcp://example.org:9", "--timeout", "soon"}, "no duration"},
		{"a bad number", "", []string{"add", "x", "https://example.org", "--parallel", "many"}, "whole number"},
		{"no queue", "", []string{"add", "x", "tcp://example.org:9", "--queue-entries", "0"}, "--queue-entries 0: allowed are 1"},
		{"no tries", "", []string{"add", "x", "http://example.org", "--attempts", "0"}, "-1 for tries without end"},
		{"a bad QoS", "", []string{"add", "x", "mqtt://example.org", "--topic", "t", "--qos", "7"}, "qos is 7; allowed are whole numbers from 0 to 2"},
		{"nothing to change", "", []string{"change", "x"}, "nothing is to be changed"},
		{"a bad reset", "", []string{"change", "x", "--reset", "tipes"}, "types"},
		{"set and reset", "", []string{"change", "x", "--type", "box", "--reset", "types"}, "set and reset"},
		{"an empty flag", "", []string{"add", "x", "tcp://example.org:9", "--device", ""}, "--device is empty"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := runAs(t.Context(), tt.stdin, []string{"SIGNALBOX_DATA=" + s.dir}, append([]string{"forwarder"}, tt.args...)...)
			r.want(t, ExitUsage, tt.want)
		})
	}
	s.run("replay", "--to-viewers", "--to-forwarder", "x").want(t, ExitUsage, "exclude each other")
	s.run("replay", "--unmarked").want(t, ExitUsage, "--unmarked goes with")
}

// TestHintsComeBehind: what may be done about an error is told after it.
func TestHintsComeBehind(t *testing.T) {
	r := newStation(t).run("forwarder", "add", "site", "tcp://127.0.0.1:9").want(t, ExitRefused, "forward.allow")
	if fault, hint := strings.Index(r.err, "signalbox: "), strings.Index(r.err, "Such an address"); fault < 0 || hint < fault || !strings.Contains(r.err[hint:], "when it starts") {
		t.Errorf("it says %s", r.err)
	}
}

func TestDeadContent(t *testing.T) {
	for body, want := range map[string]string{
		`{"specversion":"1.0","id":"a-1","data":{"temp":1}}`:      `{"temp":1}`,
		`{"cursor":"a-1","kind":"telemetry","object":{"temp":1}}`: `{"temp":1}`,
		`temp 1`:  `temp 1`,
		`{"n":1}`: `{"n":1}`,
	} {
		if got := deadContent(body); got != want {
			t.Errorf("of %s it shows %s", body, got)
		}
	}
}
