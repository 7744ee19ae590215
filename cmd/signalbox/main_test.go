package main_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"signalbox/internal/store/storetest"
)

// These tests run the real program as a child process, built with the race detector. What
// it writes on standard error is searched for races and panics at the end of each test.

const (
	// patience bounds each wait; what it waits for takes milliseconds as a rule.
	patience = 30 * time.Second
	// muchPatience bounds those for what takes seconds.
	muchPatience = 10 * patience
	// adminPassword is the first password of admin in all hubs of these tests.
	adminPassword = "correct horse"
	// raceExit is the exit code of a hub in which the race detector found something.
	raceExit = 66
)

// binaryVariable hands the built program to this test running in a namespace of its own.
const binaryVariable = "SIGNALBOX_TEST_BINARY"

// Settings that a test which is about them sets for its own hub.
const (
	shutdownTimeout = "SIGNALBOX_SHUTDOWN_TIMEOUT"
	pingInterval    = "SIGNALBOX_DEVICES_PING_INTERVAL"
)

var (
	buildDir string
	// program builds the program once per test run.
	program = sync.OnceValues(build)
)

func TestMain(m *testing.M) {
	var err error
	if buildDir, err = os.MkdirTemp("", "signalbox-test-"); err != nil {
		fmt.Fprintln(os.Stderr, "a directory for the program cannot be made:", err)
		os.Exit(1)
	}
	if err = os.Chmod(buildDir, 0o755); err != nil { // some tests run the program as another user
		fmt.Fprintln(os.Stderr, "the directory for the program cannot be opened to others:", err)
		os.Exit(1)
	}
	code := storetest.Main(m)
	_ = os.RemoveAll(buildDir)
	os.Exit(code)
}

func build() (string, error) {
	if path := os.Getenv(binaryVariable); path != "" {
		return path, nil
	}
	path := filepath.Join(buildDir, "signalbox")
	cmd := exec.Command("go", "build", "-race", "-buildvcs=false", "-o", path, "signalbox/cmd/signalbox")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// await asks until ok, within limit; what names the thing for the message.
func await(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("within %v it did not come true that %s", limit, what)
		case <-tick.C:
		}
	}
}

// output is a buffer that a process writes and a test reads.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// process is a child of the test; it is ended by its id, however the test ends.
type process struct {
	t              *testing.T
	cmd            *exec.Cmd
	stdout, stderr output
	ended          chan struct{} // closed when it has been waited for
	quiet          bool          // whoever runs it tells what it wrote
}

// command prepares the program with arguments; the caller's environment is not handed on.
func command(t *testing.T, args ...string) *process {
	t.Helper()
	path, err := program()
	must(t, err)
	return child(t, path, args...)
}

func child(t *testing.T, path string, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(path, args...), ended: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	p.cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "LANG=C.UTF-8", "TZ=UTC", "PYTHONDONTWRITEBYTECODE=1",
		"SIGNALBOX_ADMIN_PASSWORD=" + adminPassword, fmt.Sprintf("GORACE=halt_on_error=1 atexit_sleep_ms=0 exitcode=%d", raceExit),
		// However slow the machine is, no test meets a limit of time that it is not about.
		shutdownTimeout + "=2m", pingInterval + "=10m", "SIGNALBOX_DEVICES_AUTH_TIMEOUT=10m",
	}
	p.cmd.WaitDelay = patience
	return p
}

// with sets a variable of the environment and gives p.
func (p *process) with(name, value string) *process {
	p.cmd.Env = append(p.cmd.Env, name+"="+value) // the last one counts
	return p
}

func (p *process) start() {
	p.t.Helper()
	must(p.t, p.cmd.Start())
	go func() {
		_ = p.cmd.Wait() // its state is asked where it matters
		close(p.ended)
	}()
	p.t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.ended
		errText := p.stderr.String()
		for _, bad := range []string{"DATA RACE", "panic:", "fatal error:", "goroutine "} {
			if strings.Contains(errText, bad) {
				p.t.Errorf("the process wrote %q", bad)
			}
		}
		if p.t.Failed() && !p.quiet {
			p.t.Logf("%s\nstdout: %s\nstderr: %s", strings.Join(p.cmd.Args[1:], " "), tail(p.stdout.String()), tail(errText))
		}
	})
}

// tail gives the end of long text.
func tail(s string) string {
	const most = 8 << 10
	if len(s) > most {
		return "…" + s[len(s)-most:]
	}
	return s
}

// wait gives the exit code; a process ended by a signal has -1.
func (p *process) wait(limit time.Duration) int {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(limit):
		p.t.Fatalf("«%s» did not end within %v", strings.Join(p.cmd.Args[1:], " "), limit)
	}
	return p.cmd.ProcessState.ExitCode()
}

// says waits until a process has written text to standard error n times, and complains if it
// wrote it more often. What a process writes reaches the test a moment after it was written,
// so nothing it has done since says that it can be read.
func (p *process) says(text string, n int) {
	p.t.Helper()
	p.saysLike(regexp.MustCompile(regexp.QuoteMeta(text)), n)
}

// saysLike is says for an expression.
func (p *process) saysLike(expression *regexp.Regexp, n int) {
	p.t.Helper()
	count := func() int { return len(expression.FindAllStringIndex(p.stderr.String(), -1)) }
	await(p.t, patience, fmt.Sprintf("the process wrote %d times «%s»", n, expression), func() bool { return count() >= n })
	if got := count(); got != n {
		p.t.Errorf("the process wrote «%s» %d times, want %d: %s", expression, got, n, tail(p.stderr.String()))
	}
}

func (p *process) signal(s os.Signal) {
	p.t.Helper()
	must(p.t, p.cmd.Process.Signal(s))
}

// run runs the program to its end and gives what it wrote and its exit code.
func run(t *testing.T, stdin string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	p := command(t, args...)
	p.cmd.Stdin, p.quiet = strings.NewReader(stdin), true
	p.start()
	code = p.wait(muchPatience)
	return p.stdout.String(), p.stderr.String(), code
}

// hub is a running Signalbox.
type hub struct {
	*process
	dir string
	// addresses are those of addresses.json.
	addresses struct {
		HTTP, Devices, MQTT string
		TLS                 string `json:"devices_tls"`
	}
	local *http.Client
}

// dataDir makes a data directory, with a configuration if there is one.
func dataDir(t *testing.T, config string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	must(t, os.Mkdir(dir, 0o700))
	writeConfig(t, dir, config)
	return dir
}

func writeConfig(t *testing.T, dir, config string) {
	t.Helper()
	if config != "" {
		must(t, os.WriteFile(filepath.Join(dir, "signalbox.yaml"), []byte(config), 0o600))
	}
}

// startHub starts a hub on dir and returns when all its doors accept.
func startHub(t *testing.T, dir string) *hub {
	t.Helper()
	return startAs(t, dir, command(t, serveArgs(dir)...))
}

func serveArgs(dir string) []string {
	return []string{"serve", "--data", dir, "--http", "127.0.0.1:0", "--devices", "127.0.0.1:0", "--mqtt", "127.0.0.1:0"}
}

// startAs starts a hub on dir by a process that was prepared for it.
func startAs(t *testing.T, dir string, p *process) *hub {
	t.Helper()
	file := filepath.Join(dir, "addresses.json")
	if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) { // a killed hub's
		t.Fatal(err)
	}
	h := &hub{dir: dir, process: p}
	h.start()
	await(t, muchPatience, "the hub has written addresses.json", func() bool {
		select {
		case <-h.ended:
			t.Fatalf("the hub ended with code %d: %s", h.cmd.ProcessState.ExitCode(), h.stderr.String())
		default:
		}
		body, err := os.ReadFile(file)
		return err == nil && json.Unmarshal(body, &h.addresses) == nil
	})
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dialSocket(ctx, dir) }}
	h.local = &http.Client{Transport: transport, Timeout: muchPatience}
	t.Cleanup(transport.CloseIdleConnections)
	return h
}

// dialSocket connects to the socket in dir, whose name may be too long for an address.
func dialSocket(ctx context.Context, dir string) (net.Conn, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var d net.Dialer
	return d.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/signalbox.sock", f.Fd()))
}

// kill ends the hub as a power cut would, and waits until it is gone.
func (h *hub) kill() {
	h.t.Helper()
	must(h.t, h.cmd.Process.Kill())
	h.wait(patience)
	h.local.CloseIdleConnections()
}

// stop ends the hub in order.
func (h *hub) stop() {
	h.t.Helper()
	h.local.CloseIdleConnections()
	h.signal(syscall.SIGTERM)
	if code := h.wait(muchPatience); code != 0 {
		h.t.Fatalf("the hub ended with code %d", code)
	}
}

// try asks the API over the socket in the data directory; path begins behind /api/v1.
func (h *hub) try(method, path string, body any) (status int, answer []byte, err error) {
	var in io.Reader
	kind := "application/json"
	switch v := body.(type) {
	case nil:
	case string:
		in, kind = strings.NewReader(v), "application/x-ndjson"
	default:
		b, err := json.Marshal(v)
		if err != nil {
			return 0, nil, err
		}
		in = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(h.t.Context(), method, "http://hub/api/v1"+path, in)
	if err != nil {
		return 0, nil, err
	}
	if in != nil {
		req.Header.Set("Content-Type", kind)
	}
	resp, err := h.local.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(resp.Body)
	return resp.StatusCode, answer, err
}

// call is try for what must succeed; out may be nil.
func (h *hub) call(method, path string, body, out any) {
	h.t.Helper()
	status, answer, err := h.try(method, path, body)
	must(h.t, err)
	if status < 200 || status > 299 {
		h.t.Fatalf("%s %s was answered with %d: %s", method, path, status, answer)
	}
	if out != nil {
		must(h.t, json.Unmarshal(answer, out))
	}
}

// open asks a route that needs no credential, by the public port.
func (h *hub) open(path string) (status int, answer string) {
	h.t.Helper()
	req, err := http.NewRequestWithContext(h.t.Context(), http.MethodGet, "http://"+h.addresses.HTTP+path, nil)
	must(h.t, err)
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	resp, err := client.Do(req)
	must(h.t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(h.t, err)
	return resp.StatusCode, string(body)
}

// awaitReady waits until /readyz is answered with a status and says something; what names it
// for the message.
func (h *hub) awaitReady(what string, status int, says string) {
	h.t.Helper()
	await(h.t, muchPatience, "/readyz says that "+what, func() bool {
		got, body := h.open("/readyz")
		return got == status && strings.Contains(body, says)
	})
}

// secretOf is the secret of a device of these tests.
func secretOf(name string) string { return "secret of " + name }

// add makes devices with secrets of secretOf.
func (h *hub) add(names ...string) {
	h.t.Helper()
	var body strings.Builder
	for _, name := range names {
		fmt.Fprintf(&body, "{\"name\":%q,\"type\":\"box\",\"secret\":%q}\n", name, secretOf(name))
	}
	var report struct{ Created int }
	h.call(http.MethodPost, "/devices/import", body.String(), &report)
	if report.Created != len(names) {
		h.t.Fatalf("%d of %d devices were made", report.Created, len(names))
	}
}

// device is a device as the API shows it.
type device struct {
	Name, Type, Status, Presence, Address string
	Disabled                              bool
}

func (h *hub) device(name string) (d device) {
	h.t.Helper()
	h.call(http.MethodGet, "/devices/"+name, nil, &d)
	return d
}

// awaitPresence waits until the API shows the presence.
func (h *hub) awaitPresence(name, presence string) {
	h.t.Helper()
	await(h.t, patience, name+" is "+presence, func() bool { return h.device(name).Presence == presence })
}

// sent is a command as the API shows it.
type sent struct {
	ID, Device, Command, State, Error string
	Value                             *string
	Result                            json.RawMessage
}

// send asks for a command and gives it; options are further members of the request.
func (h *hub) send(device, name, value string, options map[string]any) (c sent) {
	h.t.Helper()
	body := map[string]any{"command": name, "value": value}
	maps.Copy(body, options)
	h.call(http.MethodPost, "/devices/"+device+"/commands", body, &c)
	return c
}

func (h *hub) command(id string) (c sent) {
	h.t.Helper()
	h.call(http.MethodGet, "/commands/"+id, nil, &c)
	return c
}

// history reads all telemetry of a device, oldest first, by pages.
func (h *hub) history(device string) (objects []string) {
	h.t.Helper()
	query := "/devices/" + device + "/telemetry?order=asc&limit=5000"
	for cursor := ""; ; {
		var page struct {
			Items []struct{ Object json.RawMessage }
			Next  string
		}
		h.call(http.MethodGet, query+cursor, nil, &page)
		for _, item := range page.Items {
			objects = append(objects, string(item.Object))
		}
		if page.Next == "" {
			return objects
		}
		cursor = "&cursor=" + page.Next
	}
}

// alive says that the hub answers and serves the device, which is a board of version 2.
func (h *hub) alive(witness *board) {
	h.t.Helper()
	if status, _ := h.open("/healthz"); status != http.StatusOK {
		h.t.Fatalf("/healthz was answered with %d", status)
	}
	witness.report()
	witness.awaitSaved()
}
