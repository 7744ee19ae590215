package bench

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"signalbox/internal/sim"
)

// startPatience is how long a hub or sink may take until it accepts connections.
const startPatience = 60 * time.Second

// target is what is measured: a hub or the sink.
type target interface {
	address() string // host:port for devices
	process() int    // its process id, 0 if it is not known
	collect(ctx context.Context) error
	stop() error
}

// sinkChild is a sink in a process of its own.
type sinkChild struct {
	*child
	in    *os.File
	lines *bufio.Scanner
	addr  string
	out   *os.File
}

// startSink starts «bench sink» of the program under test.
func (b *bencher) startSink(context.Context) (*sinkChild, error) {
	inR, inW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, inR.Close(), inW.Close())
	}
	program, err := b.program()
	if err != nil {
		return nil, err
	}
	c, err := startChild(program, []string{"bench", "sink", "--listen", "127.0.0.1:0"}, nil, inR, outW)
	err = errors.Join(err, inR.Close(), outW.Close())
	s := &sinkChild{child: c, in: inW, out: outR, lines: bufio.NewScanner(outR)}
	if err == nil {
		s.addr, err = s.line()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start the sink: %w", err), s.stop())
	}
	return s, nil
}

// line reads the sink's next line; it has startPatience for it.
func (s *sinkChild) line() (string, error) {
	if err := s.out.SetReadDeadline(time.Now().Add(startPatience)); err != nil {
		return "", err
	}
	if !s.lines.Scan() {
		return "", errors.Join(fmt.Errorf("the sink ended; it said: %s", s.said), s.lines.Err())
	}
	return s.lines.Text(), nil
}

func (s *sinkChild) address() string { return s.addr }
func (s *sinkChild) process() int    { return s.pid() }

func (s *sinkChild) collect(context.Context) error {
	if _, err := io.WriteString(s.in, "gc\n"); err != nil {
		return fmt.Errorf("ask the sink for a garbage collection: %w", err)
	}
	_, err := s.line()
	return err
}

func (s *sinkChild) stop() error {
	err := s.in.Close()
	if s.child != nil {
		err = errors.Join(err, s.child.stop())
	}
	return errors.Join(err, s.out.Close())
}

// hub is a hub under test, a child or a running one.
type hub struct {
	*child         // nil: a running hub that is not ours
	program string // and what it is started with
	dir     string
	env     []string
	addrs   addresses
	mqtt    string // where it has to listen for MQTT; empty for not at all
	pid     int
	api     *api
	added   []sim.Credential
}

// addresses are what a hub writes into DATA/addresses.json.
type addresses struct {
	HTTP    string `json:"http"`
	Devices string `json:"devices"`
	MQTT    string `json:"mqtt"`
	fixed   string // where a restarted hub has to listen for devices again; empty for any port
}

func (b *bencher) program() (string, error) {
	if b.Executable != "" {
		return b.Executable, nil
	}
	return os.Executable()
}

// startHub gives a hub to measure: a fresh one with the defaults but for settings (variables of the environment), or the
// running one that the options name.
func (b *bencher) startHub(ctx context.Context, settings ...string) (*hub, error) {
	if b.URL != "" {
		if b.DevicesAddr == "" {
			return nil, errors.New("a running hub needs the address of its device listener besides its URL")
		}
		b.report.note("A running hub was measured: its memory includes garbage, and is 0 like its CPU when its process is not named.")
		return &hub{addrs: addresses{HTTP: b.URL, Devices: b.DevicesAddr}, pid: b.PID, api: newAPI(b.URL, b.Token)}, nil
	}
	h, err := b.newHub(settings...)
	if err != nil {
		return nil, err
	}
	if err := h.start(ctx); err != nil {
		return nil, errors.Join(err, h.stop())
	}
	return h, nil
}

// newHub makes a hub of ours, with a directory for its data; start starts it.
func (b *bencher) newHub(settings ...string) (*hub, error) {
	program, err := b.program()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(b.Dir, "signalbox-bench-")
	if err != nil {
		return nil, fmt.Errorf("make a directory for the hub: %w", err)
	}
	h := &hub{program: program, dir: dir}
	h.env = append([]string{"SIGNALBOX_ADMIN_PASSWORD=bench-only-password"}, settings...)
	h.api = newSocketAPI(filepath.Join(h.data(), "signalbox.sock"))
	return h, nil
}

func (h *hub) data() string { return filepath.Join(h.dir, "data") }

// start starts the hub's process on its data and waits until it accepts connections.
func (h *hub) start(ctx context.Context) error {
	path := filepath.Join(h.data(), "addresses.json")
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	devices := cmp.Or(h.addrs.fixed, "127.0.0.1:0")
	args := []string{"serve", "--data", h.data(), "--http", "127.0.0.1:0", "--devices", devices, "--mqtt", cmp.Or(h.mqtt, "off")}
	c, err := startChild(h.program, args, h.env, nil, nil)
	if err != nil {
		return err
	}
	h.child, h.pid = c, c.pid()
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("the hub did not write %s: %w; it said: %s", path, ctx.Err(), c.said)
		case <-c.done:
			return fmt.Errorf("the hub ended at its start (%w); it said: %s", c.err, c.said)
		case <-look.C:
		}
		text, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if json.Unmarshal(text, &h.addrs) == nil && h.addrs.Devices != "" {
			return nil
		}
	}
}

func (h *hub) address() string { return h.addrs.Devices }
func (h *hub) process() int    { return h.pid }

// collect asks a hub of ours for a garbage collection; a running one offers that on its own socket alone.
func (h *hub) collect(ctx context.Context) error {
	if h.child == nil {
		return nil
	}
	_, err := h.api.collect(ctx)
	return err
}

// addDevices adds n devices under names that no measurement has used.
func (h *hub) addDevices(ctx context.Context, n int) ([]sim.Credential, error) {
	list, err := h.api.addDevices(ctx, fleetPrefix(), n)
	h.added = append(h.added, list...)
	return list, err
}

// cleanPatience is how long removing devices from a running hub may take.
const cleanPatience = 10 * time.Minute

// stop ends a hub of ours and removes its data; a running one goes on without the devices that were added.
func (h *hub) stop() error {
	var err error
	if h.child == nil && h.dir == "" {
		ctx, cancel := context.WithTimeout(context.Background(), cleanPatience)
		defer cancel()
		err = h.api.removeDevices(ctx, h.added)
	}
	if h.child != nil {
		err = h.child.stop()
	}
	if h.dir != "" {
		err = errors.Join(err, os.RemoveAll(h.dir))
	}
	return err
}

// bareCredentials are names for connections to a sink, which asks for none.
func bareCredentials(n int) []sim.Credential {
	list := make([]sim.Credential, n)
	for i := range list {
		list[i].Name = fmt.Sprintf("bench-%d", i)
	}
	return list
}
