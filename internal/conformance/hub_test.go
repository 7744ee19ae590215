package conformance_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"signalbox/internal/cli"
	"signalbox/internal/wire/packet"
)

const (
	// childVariable makes this test binary the hub itself: a process that can be killed. (The
	// hub knows all variables that begin with its own name.)
	childVariable = "CONFORMANCE_TEST_HUB"
	// adminPassword is the first password of admin in all hubs of these tests.
	adminPassword = "correct horse"
)

// hub is a running Signalbox with what a client needs to know of it.
type hub struct {
	dir     string
	tcp, ws string
	// user and password are a token's, of scope admin, which may use all topics.
	user, password string
	stop           func() error // in order
	kill           func() error // only of a child
	output         *output
}

var (
	workDir string
	// shared is the hub of all tests but those that stop one.
	shared = sync.OnceValues(func() (*hub, error) { return start(filepath.Join(workDir, "shared"), inProcess) })
)

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		os.Exit(cli.Main("test"))
	}
	os.Exit(testMain(m))
}

func testMain(m *testing.M) int {
	flag.Parse()
	// Most checks wait most of the time.
	if err := flag.Set("test.parallel", "16"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var err error
	if workDir, err = os.MkdirTemp("", "signalbox-mqtt-"); err != nil {
		fmt.Fprintln(os.Stderr, "a directory for the hub cannot be made:", err)
		return 1
	}
	defer func() { _ = os.RemoveAll(workDir) }()
	code := m.Run()
	if h, err := shared(); err == nil {
		if err := h.stop(); err != nil {
			fmt.Fprintln(os.Stderr, "the hub did not stop in order:", err)
			code = 1
		}
	}
	return code
}

// theHub is the hub that the checks speak to.
func theHub(t testing.TB) *hub {
	t.Helper()
	h, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// output is what a hub writes.
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

// start starts a hub on dir, whose state it takes up if there is one, and waits until its
// doors accept.
func start(dir string, run func(h *hub, args, env []string) (ended <-chan struct{}, err error)) (*hub, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	h := &hub{dir: dir, output: &output{}}
	file := filepath.Join(dir, "addresses.json")
	if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) { // a killed hub's
		return nil, err
	}
	args := []string{"serve", "--data", dir, "--http", "127.0.0.1:0", "--devices", "127.0.0.1:0", "--mqtt", "127.0.0.1:0"}
	env := []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "LANG=C.UTF-8", "TZ=UTC", "SIGNALBOX_ADMIN_PASSWORD=" + adminPassword,
		// Checks of refused logins come from the address of those that must not be slowed.
		"SIGNALBOX_DEVICES_BACKOFF_FAILURES=1000",
	}
	ended, err := run(h, args, env)
	if err != nil {
		return nil, err
	}
	var addresses struct{ HTTP, MQTT string }
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(6 * patience)
	for addresses.MQTT == "" {
		select {
		case <-ended:
			return nil, fmt.Errorf("the hub ended: %s", h.output)
		case <-limit:
			return nil, fmt.Errorf("the hub did not come up: %s", h.output)
		case <-tick.C:
		}
		if body, err := os.ReadFile(file); err == nil {
			_ = json.Unmarshal(body, &addresses) // perhaps half written
		}
	}
	h.tcp, h.ws = addresses.MQTT, "ws://"+addresses.HTTP+"/mqtt"
	return h, h.credentials()
}

// inProcess runs the hub in this process.
func inProcess(h *hub, args, env []string) (<-chan struct{}, error) {
	ctx, cancel := context.WithCancel(context.Background())
	ended, code := make(chan struct{}), 0
	go func() {
		defer close(ended)
		code = cli.Run(ctx, args, strings.NewReader(""), h.output, h.output, env)
	}()
	h.stop = func() error {
		cancel()
		<-ended
		if code != 0 {
			return fmt.Errorf("exit code %d: %s", code, h.output)
		}
		return nil
	}
	return ended, nil
}

// inChild runs the hub in a child process, which can be killed.
func inChild(h *hub, args, env []string) (<-chan struct{}, error) {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(env, childVariable+"=1")
	cmd.Stdout, cmd.Stderr = h.output, h.output
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // its state is asked where it matters
	}()
	h.stop = func() error {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			return err
		}
		<-ended
		if code := cmd.ProcessState.ExitCode(); code != 0 {
			return fmt.Errorf("exit code %d: %s", code, h.output)
		}
		return nil
	}
	h.kill = func() error {
		err := cmd.Process.Kill()
		<-ended
		return err
	}
	return ended, nil
}

// credentials makes a token, or finds what an earlier run on dir has made.
func (h *hub) credentials() error {
	file := filepath.Join(h.dir, "..", filepath.Base(h.dir)+".token")
	h.user = "checks"
	if b, err := os.ReadFile(file); err == nil {
		h.password = string(b)
		return nil
	}
	var made struct{ Secret string }
	if err := h.post("/tokens", map[string]string{"name": h.user, "scope": "admin"}, &made); err != nil {
		return err
	}
	h.password = made.Secret
	return os.WriteFile(file, []byte(h.password), 0o600)
}

// addDevice makes a device, which may use its own topics alone.
func (h *hub) addDevice(t testing.TB) (name, secret string) {
	t.Helper()
	name, secret = "device-"+unique(), "a secret of many letters"
	if err := h.post("/devices", map[string]string{"name": name, "type": "sensor", "secret": secret}, nil); err != nil {
		t.Fatal(err)
	}
	return name, secret
}

// asDevice makes a device and connects as that.
func asDevice(t testing.TB, name *string) option {
	t.Helper()
	device, secret := theHub(t).addDevice(t)
	*name = device
	return func(c *packet.Connect, _ *packet.Properties) { c.User, c.Password = []byte(device), []byte(secret) }
}

// post asks the API over the socket in the data directory.
func (h *hub) post(path string, body, answer any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://hub/api/v1"+path, bytes.NewReader(b))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", filepath.Join(h.dir, "signalbox.sock"))
	}}}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err = io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return err
	case resp.StatusCode > 299:
		return fmt.Errorf("POST %s was answered with %d: %s", path, resp.StatusCode, b)
	case answer == nil:
		return nil
	}
	return json.Unmarshal(b, answer)
}
