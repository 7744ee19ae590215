package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"signalbox/internal/app"
)

// patience bounds each wait; what it waits for takes a second at most as a rule.
const patience = 2 * time.Minute

// A bench for one data directory.
type station struct {
	t   *testing.T
	dir string
	env []string
}

func newStation(t *testing.T) *station {
	t.Helper()
	return &station{t: t, dir: filepath.Join(t.TempDir(), "data")}
}

// result is what a command left behind.
type result struct {
	code     int
	out, err string
}

// run runs one command on the station's data directory.
func (s *station) run(args ...string) result {
	s.t.Helper()
	return s.feed("", args...)
}

// feed is run with standard input.
func (s *station) feed(stdin string, args ...string) result {
	s.t.Helper()
	return runAs(s.t.Context(), stdin, append(slices.Clone(s.env), "SIGNALBOX_DATA="+s.dir), args...)
}

func runAs(ctx context.Context, stdin string, env []string, args ...string) result {
	var out, err bytes.Buffer
	code := Run(ctx, args, strings.NewReader(stdin), &out, &err, env)
	return result{code, out.String(), err.String()}
}

// want asserts the exit code and that each text is in what was said.
func (r result) want(t *testing.T, code int, texts ...string) result {
	t.Helper()
	if r.code != code {
		t.Fatalf("exit code %d, want %d\nout: %s\nerr: %s", r.code, code, r.out, r.err)
	}
	for _, text := range texts {
		if !strings.Contains(r.out+r.err, text) {
			t.Errorf("%q was not said\nout: %s\nerr: %s", text, r.out, r.err)
		}
	}
	return r
}

// decode reads JSON output.
func decode[T any](t *testing.T, r result) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(r.out), &v); err != nil {
		t.Fatalf("%v in %s", err, r.out)
	}
	return v
}

// watchedWriter tells when a text has been written.
type watchedWriter struct {
	text string
	seen bytes.Buffer
	told chan struct{}
}

func (w *watchedWriter) Write(p []byte) (int, error) {
	w.seen.Write(p)
	select {
	case <-w.told:
	default:
		if strings.Contains(w.seen.String(), w.text) {
			close(w.told)
		}
	}
	return len(p), nil
}

// serve runs a hub on the station until the test ends; it gives the HTTP address and what
// the hub printed.
func (s *station) serve(more ...string) (address, printed string) {
	s.t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	out := &watchedWriter{text: "Ctrl-C", told: make(chan struct{})}
	var said bytes.Buffer
	ended := make(chan int, 1)
	args := append([]string{"serve", "--data", s.dir, "--http", "127.0.0.1:0", "--devices", "127.0.0.1:0", "--mqtt", "127.0.0.1:0"}, more...)
	go func() { ended <- Run(ctx, args, strings.NewReader(""), out, &said, s.env) }()
	s.t.Cleanup(func() {
		stop()
		select {
		case code := <-ended:
			if code >= 0 && code != ExitOK {
				s.t.Errorf("the hub ended with %d: %s", code, said.String())
			}
		case <-time.After(patience):
			s.t.Error("the hub did not stop")
		}
	})
	select {
	case <-out.told:
	case code := <-ended:
		ended <- -1
		s.t.Fatalf("the hub ended with %d: %s", code, said.String())
	case <-time.After(patience):
		s.t.Fatal("the hub did not start")
	}
	return "http://" + readAddresses(s.dir)["http"], out.seen.String()
}

// simulate runs «sim» with more arguments on the station's hub, until each of the devices has reported n times, and
// gives what it said.
func (s *station) simulate(devices []string, n int, more ...string) result {
	s.t.Helper()
	ctx, stop := context.WithCancel(s.t.Context())
	defer stop()
	watching, early := context.WithTimeout(ctx, patience)
	defer early()
	ended := make(chan result, 1)
	go func() {
		defer early() // there is nothing more to come
		ended <- runAs(ctx, "", []string{"SIGNALBOX_DATA=" + s.dir}, append([]string{"sim", "--stations", "0", "--interval", "50ms"}, more...)...)
	}()
	watch := func(n int, more ...string) {
		s.t.Helper()
		r := runAs(watching, "", []string{"SIGNALBOX_DATA=" + s.dir}, append([]string{"watch", "--kind", "telemetry", "--count", fmt.Sprint(n)}, more...)...)
		if r.want(s.t, ExitOK); watching.Err() != nil {
			s.t.Fatalf("the devices %v did not report %d times; sim: %+v", devices, n, <-ended)
		}
	}
	watch(1) // from here on there are the devices
	for _, name := range devices {
		watch(n, name)
	}
	stop()
	return <-ended
}

func TestEveryCommandHasHelp(t *testing.T) {
	c := &command{Program: &Program{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard}}
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Hidden || cmd.Name() == "completion" || cmd.Name() == "help" {
			return
		}
		if cmd.Short == "" || !strings.Contains(cmd.Example, "signalbox") {
			t.Errorf("%s: short %q, example %q", cmd.CommandPath(), cmd.Short, cmd.Example)
		}
		if cmd.RunE == nil || cmd.Run != nil {
			t.Errorf("%s: no RunE", cmd.CommandPath())
		}
		path := strings.Fields(cmd.CommandPath())[1:]
		runAs(t.Context(), "", nil, append(path, "--help")...).want(t, ExitOK, "Examples:", "Usage:")
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(c.root())
}

func TestRootHelp(t *testing.T) {
	r := runAs(t.Context(), "", nil).want(t, ExitOK)
	for _, text := range []string{"The hub:", "Devices, people and programs:", "Telemetry and commands:", "Tools:", "Exit codes:", "completion", "--data", "--url"} {
		if !strings.Contains(r.out, text) {
			t.Errorf("%q is not in\n%s", text, r.out)
		}
	}
	if strings.Contains(r.out, "sink") {
		t.Error("the hidden command shows")
	}
}

func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		runAs(t.Context(), "", nil, "completion", shell).want(t, ExitOK, "signalbox")
	}
}

func TestWrongUsage(t *testing.T) {
	tests := []struct {
		name string
		args []string
		want string
	}{
		{"unknown command", []string{"servce"}, `nearest is "serve"`},
		{"unknown part", []string{"device", "lst"}, `nearest is "list"`},
		{"unknown command, none near", []string{"frobnicate"}, "it has backup, bench, command, completion, config"},
		{"unknown part with a flag", []string{"token", "add", "x", "--scope", "read"}, `signalbox token has no command "add"; it has create, list, revoke`},
		{"unknown part with a short flag", []string{"device", "shw", "-x"}, `signalbox device has no command "shw"; the nearest is "show"`},
		{"unknown command with a flag", []string{"frobnicate", "x", "--wait"}, `signalbox has no command "frobnicate"; it has backup`},
		{"flag of no part", []string{"token", "--scope"}, "signalbox token has no flag --scope"},
		{"unknown shell", []string{"completion", "fsh"}, `nearest is "fish"`},
		{"unknown short flag", []string{"device", "list", "-x"}, "signalbox device list has no flag -x"},
		{"times the wrong way round", []string{"history", "a", "--from", "1h", "--to", "2h"}, "--from 1h is not before --to 2h"},
		{"type without a command", []string{"send", "--type", "box"}, "signalbox send --type box COMMAND"},
		{"unknown flag", []string{"device", "list", "--frob"}, "signalbox device list has no flag --frob"},
		{"nearly a flag", []string{"device", "list", "--onlin"}, "the nearest is --online"},
		{"flag without its value", []string{"history", "a", "--last"}, "--last needs a value"},
		{"no number", []string{"device", "list", "--limit", "x"}, "--limit x: allowed is a whole number"},
		{"no share", []string{"sim", "--v1-share", "half"}, "--v1-share half: allowed is a number"},
		{"empty flag", []string{"serve", "--http", ""}, "--http is empty"},
		{"empty flag in a list", []string{"watch", "--type", ""}, "--type is empty"},
		{"empty part of a list", []string{"history", "a", "--fields", "x,"}, "--fields is empty"},
		{"empty name", []string{"device", "show", ""}, "an argument is empty"},
		{"empty device", []string{"send", "", "b"}, "is empty"},
		{"wait without unit", []string{"send", "a", "b", "--wait", "5"}, "--wait 5 lacks its unit; write --wait 5s"},
		{"wait without unit behind a value", []string{"send", "a", "b", "90", "--wait=5"}, "--wait 5 lacks its unit"},
		{"negative wait", []string{"send", "a", "b", "--wait", "-5"}, "--wait -5"},
		{"unknown scope", []string{"token", "create", "x", "--scope", "god"}, "allowed are read, command and admin"},
		{"unknown kind", []string{"watch", "--kind", "telemtry"}, "allowed are telemetry, presence, command and alert; the nearest is telemetry"},
		{"unknown fault", []string{"sim", "--misbehave", "storms=0.5"}, "the nearest is storm"},
		{"share of faults", []string{"sim", "--misbehave", "storm=NaN"}, "0 to 1"},
		{"names and a choice", []string{"device", "rm", "a", "--type", "box"}, "exclude each other"},
		{"choice without yes", []string{"device", "rm", "--type", "box"}, "add --yes"},
		{"missing argument", []string{"device", "show"}, "device show NAME"},
		{"missing name", []string{"device", "add"}, "name is missing"},
		{"too much", []string{"user", "list", "x"}, `"x" is too much`},
		{"from and name", []string{"device", "add", "x", "--from", "y"}, "--from stands alone"},
		{"online and offline", []string{"device", "list", "--online", "--offline"}, "exclude each other"},
		{"bad wait", []string{"send", "a", "b", "--wait=soon"}, "--wait soon"},
		{"bad ttl", []string{"send", "a", "b", "--ttl", "5"}, "unit is missing"},
		{"bad expiry", []string{"token", "create", "a", "--expires", "never"}, "12h or 90d"},
		{"bad time", []string{"history", "a", "--from", "yesterday"}, "RFC 3339"},
		{"bad order", []string{"history", "a", "--order", "up"}, "asc and desc"},
		{"bad last", []string{"history", "a", "--last", "-1"}, "1 to 100000"},
		{"csv and json", []string{"history", "a", "--csv", "--json"}, "exclude each other"},
		{"bad address", []string{"device", "list", "--url", "hub", "--token", "x"}, "http or https"},
		{"url and data", []string{"device", "list", "--url", "http://h", "--data", "d", "--token", "x"}, "exclude each other"},
		{"two tokens", []string{"device", "list", "--url", "http://h", "--token-file", "d", "--token", "x"}, "exclude each other"},
		{"no token file", []string{"device", "list", "--url", "http://h", "--token-file", "/nowhere"}, "/nowhere cannot be read"},
		{"serve a remote hub", []string{"serve", "--url", "http://h"}, "serve runs a hub here"},
		{"bad set", []string{"serve", "--set", "x"}, "KEY=VALUE"},
		{"unknown set", []string{"serve", "--set", "htp.listen=x"}, `"http.listen"`},
		{"no such file", []string{"import", "/nowhere.json"}, "/nowhere.json cannot be read"},
		{"no config file", []string{"config", "check", "/nowhere.yaml"}, "/nowhere.yaml cannot be read"},
		{"no password", []string{"user", "add", "x", "--password-stdin"}, "no password"},
		{"no terminal", []string{"user", "add", "x"}, "--password-stdin"},
		{"bad misbehaviour", []string{"sim", "--misbehave", "storm"}, "FAULT=SHARE"},
		{"negative count", []string{"watch", "--count", "-1"}, "negative"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newStation(t).run(tt.args...).want(t, ExitUsage, tt.want)
			if r.out != "" || !strings.HasPrefix(r.err, "signalbox: ") || strings.Contains(r.err, "Usage:") {
				t.Errorf("out: %s\nerr: %s", r.out, r.err)
			}
		})
	}
}

func TestUnknownVariable(t *testing.T) {
	s := newStation(t)
	s.env = []string{"SIGNALBOX_HTP_LISTEN=:1"}
	s.run("device", "list").want(t, ExitUsage, "SIGNALBOX_HTP_LISTEN", "nearest is SIGNALBOX_HTTP_LISTEN")
}

func TestConfigCommands(t *testing.T) {
	s := newStation(t)
	r := s.run("config", "default").want(t, ExitOK, "listen: \":8080\"")
	file := filepath.Join(t.TempDir(), "hub.yaml")
	if err := os.WriteFile(file, []byte(r.out+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.env = []string{"SIGNALBOX_LOG_LEVEL=debug"}
	runAs(t.Context(), "", s.env, "config", "check", file).want(t, ExitOK, "differ from the defaults: 1", "log.level: debug")
	if err := os.WriteFile(file, []byte("htp:\n  listen: x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.run("config", "check", file).want(t, ExitUsage, "hub.yaml:1:")
	if err := os.WriteFile(file, []byte("http:\n  tls:\n    cert: /nowhere/cert.pem\n    key: /nowhere/key.pem\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.run("config", "check", file).want(t, ExitUsage, "hub.yaml:3: http.tls: the certificate /nowhere/cert.pem")
	s.run("config", "doc").want(t, ExitOK, "# Configuration")
}

func TestWithoutHub(t *testing.T) {
	s := newStation(t)
	s.run("device", "add", "esp01", "--type", "box").want(t, ExitOK, "Made the data directory", `{"type":"auth","name":"esp01","password":"`)
	s.run("device", "add", "esp01").want(t, ExitFailure, "esp01")
	s.run("device", "add", "bad name").want(t, ExitUsage, "bad name")
	s.feed("1234\n", "device", "add", "станция", "--password-stdin").want(t, ExitOK, `"password":"1234"`)
	r := s.run("device", "list", "--json").want(t, ExitOK)
	if list := decode[[]map[string]any](t, r); len(list) != 2 || list[0]["name"] != "esp01" || list[0]["type"] != "box" {
		t.Errorf("devices %v", list)
	}
	s.run("device", "list", "--prefix", "none", "--json").want(t, ExitOK, "[]")
	s.run("device", "disable", "esp01").want(t, ExitOK, "esp01: disabled")
	s.run("device", "list").want(t, ExitOK, "disabled")
	s.run("device", "enable", "esp01").want(t, ExitOK)
	s.run("device", "rotate", "esp01", "--json").want(t, ExitOK, `"secret":"`)
	s.run("device", "show", "esp01").want(t, ExitOK, "none yet", "it has never logged in")
	s.run("device", "show", "nobody").want(t, ExitNotFound, "nobody")
	s.run("send", "esp01", "restart").want(t, ExitUnavailable, "No hub runs")
	s.run("send", "esp01", "angle", "-5", "--ttl", "1h").want(t, ExitOK, "angle -5 queued")
	s.run("send", "esp01", "restart", "--ttl", "1h", "--wait", "10ms").want(t, ExitUnavailable, "still queued")
	s.run("watch").want(t, ExitUnavailable, "no hub runs")
	s.run("sim").want(t, ExitUnavailable, "no hub runs")
	s.run("history", "esp01").want(t, ExitOK, "no telemetry")
	s.run("history", "esp01", "--json").want(t, ExitOK)
	s.run("device", "rm", "esp01", "станция", "--yes").want(t, ExitOK, "esp01: removed")
	s.run("device", "show", "esp01").want(t, ExitNotFound)
}

func TestPeopleAndTokens(t *testing.T) {
	s := newStation(t)
	s.feed("long enough\n", "user", "add", "anna", "--password-stdin").want(t, ExitOK, "anna: added")
	s.feed("short\n", "user", "add", "bert", "--password-stdin").want(t, ExitUsage)
	s.feed("another one\n", "user", "passwd", "anna", "--password-stdin").want(t, ExitOK, "changed")
	s.feed("another one\n", "user", "passwd", "nobody", "--password-stdin").want(t, ExitNotFound)
	s.run("user", "list").want(t, ExitOK, "anna")
	s.run("user", "rm", "anna").want(t, ExitFailure, "only user")
	r := s.run("token", "create", "controller", "--scope", "command", "--expires", "90d").want(t, ExitOK)
	if !strings.HasPrefix(r.out, "sbx_") || strings.Count(r.out, "\n") != 1 {
		t.Errorf("the token alone should be on standard output, not %q", r.out)
	}
	s.run("token", "create", "x", "--scope", "god").want(t, ExitUsage)
	s.run("token", "list").want(t, ExitOK, "controller", "command")
	s.run("token", "revoke", "controller").want(t, ExitOK, "revoked")
	s.run("token", "revoke", "controller").want(t, ExitNotFound)
}

const dataFile = `{"users":[{"id":1,"username":"admin","password_hash":"$2b$04$abcdefghijklmnopqrstuu5s2v8.iXieOjg/.AySBTTZIIVFJeBui"}],
"devices":[{"name":"esp01","type":"box","password":"1234","status":"offline"},{"name":"bad name","type":"box","password":"1"}]}`

func TestImport(t *testing.T) {
	s := newStation(t)
	file := filepath.Join(t.TempDir(), "data.json")
	if err := os.WriteFile(file, []byte(dataFile), 0o600); err != nil {
		t.Fatal(err)
	}
	s.run("import", file).want(t, ExitFailure, "created  user", "created  device", "refused  device", "bad name", "created 2, kept 0, refused 1")
	r := s.run("import", file, "--json").want(t, ExitFailure)
	if report := decode[map[string]any](t, r); report["kept"] != 2.0 || report["created"] != 0.0 {
		t.Errorf("the second import: %v", report)
	}
	s.run("device", "add", "--from", file).want(t, ExitUsage, "signalbox import")
	s.feed("name,type,password\nesp02,box,1\nesp03,station,\n", "device", "add", "--from", "-").want(t, ExitOK, "esp02", "created 2")
	s.feed(`[{"name":"esp04"}]`, "import", "-").want(t, ExitOK, "created 1")
	s.feed("{\"name\":\"esp05\"}\n{\"name\":\"esp06\"}\n", "import", "-").want(t, ExitOK, "created 2")
	s.feed("esp03,box\nesp03,box\n", "import", "-").want(t, ExitOK, "standard input:2: the device esp03 is there already, in line 1", "kept     device  2 ")
	if list := decode[[]any](t, s.run("device", "list", "--json")); len(list) != 6 {
		t.Errorf("%d devices", len(list))
	}
}

func TestImportThousands(t *testing.T) {
	s := newStation(t)
	var file strings.Builder
	file.WriteString("name,type\n")
	for i := range 3000 {
		file.WriteString("box-" + strings.Repeat("x", i%7) + string(rune('a'+i%26)) + "-" + time.Duration(i).String() + ",box\n")
	}
	r := s.feed(file.String(), "device", "add", "--from", "-", "--json").want(t, ExitOK)
	if report := decode[map[string]any](t, r); report["created"] != 3000.0 {
		t.Errorf("created %v", report["created"])
	}
	if list := decode[[]any](t, s.run("device", "list", "--json", "--limit", "2500")); len(list) != 2500 {
		t.Errorf("%d of 2500 devices", len(list))
	}
}

// TestNoData asks of a directory that is not there, which stays so.
func TestNoData(t *testing.T) {
	for _, args := range [][]string{
		{"device", "list"},
		{"device", "show", "a"},
		{"device", "rotate", "a"},
		{"device", "disable", "a"},
		{"device", "rm", "a", "--yes"},
		{"device", "rm", "--type", "box", "--yes"},
		{"user", "list"},
		{"user", "rm", "a"},
		{"token", "list"},
		{"token", "revoke", "a"},
		{"history", "a"},
		{"send", "a", "b"},
		{"send", "--type", "box", "b"},
	} {
		s := newStation(t)
		r := s.run(args...).want(t, ExitUnavailable, "there are no data of a hub in "+s.dir, "signalbox serve")
		if _, err := os.Stat(s.dir); err == nil || r.out != "" {
			t.Errorf("%v made the directory, or said %q", args, r.out)
		}
		if err := os.Mkdir(s.dir, 0o700); err != nil {
			t.Fatal(err)
		}
		s.run(args...).want(t, ExitUnavailable, "there are no data")
		if left, err := os.ReadDir(s.dir); err != nil || len(left) != 0 {
			t.Errorf("%v left %v in the directory (%v)", args, left, err)
		}
	}
	for _, args := range [][]string{{"device", "add", "a"}, {"user", "add", "a", "--password-stdin"}, {"token", "create", "a"}, {"import", "-"}} {
		s := newStation(t)
		s.feed("long-enough\n", args...).want(t, ExitOK, "Made the data directory")
	}
}

func TestRemoveMany(t *testing.T) {
	s := newStation(t)
	var file strings.Builder
	for i := range 300 {
		fmt.Fprintf(&file, "sim-%d,%s\n", i, []string{"box", "station", "lamp"}[i%3])
	}
	s.feed(file.String()+"keep,box\n", "import", "-").want(t, ExitOK)
	s.run("device", "rm", "--type", "boxes", "--yes").want(t, ExitNotFound, "nothing was removed")
	s.run("device", "rm", "--type", "box", "--prefix", "sim-", "--yes", "--json").want(t, ExitOK, `{"removed":100}`)
	s.run("device", "rm", "--type", "station,lamp", "-y").want(t, ExitOK, "devices removed: 200")
	if list := decode[[]any](t, s.run("device", "list", "--json")); len(list) != 1 {
		t.Errorf("%d devices are left", len(list))
	}
}

func TestWaitsForTheLock(t *testing.T) {
	s := newStation(t)
	s.run("device", "add", "esp01").want(t, ExitOK)
	cfg := app.DefaultConfig()
	cfg.Data = s.dir
	holder, err := app.Open(t.Context(), app.Options{Config: cfg})
	if err != nil {
		t.Fatal(err)
	}
	closed := make(chan error, 1)
	time.AfterFunc(200*time.Millisecond, func() { closed <- holder.Close() })
	s.run("device", "list").want(t, ExitOK)
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

func TestStaleSocket(t *testing.T) {
	s := newStation(t)
	s.run("device", "add", "esp01").want(t, ExitOK)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(s.dir, app.SocketName)})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	s.run("device", "list").want(t, ExitOK, "esp01")
}
