package main_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"
)

// done runs a command that must succeed and gives its standard output.
func done(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	stdout, stderr, code := run(t, stdin, args...)
	if code != 0 {
		t.Fatalf("«%s» ended with code %d: %s", strings.Join(args, " "), code, stderr)
	}
	return stdout
}

// decode reads JSON that a command has printed.
func decode(t *testing.T, text string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
}

// failed runs a command that must end with code, a sentence on standard error and nothing
// on standard output.
func failed(t *testing.T, code int, args ...string) {
	t.Helper()
	stdout, stderr, got := run(t, "", args...)
	if got != code || !strings.Contains(stderr, "signalbox: ") || stdout != "" {
		t.Errorf("«%s» ended with code %d instead of %d\nstdout: %s\nstderr: %s", strings.Join(args, " "), got, code, stdout, stderr)
	}
}

// TestDeviceCommands walks through the life of a device by the command line, on a running
// hub and on a directory without one.
func TestDeviceCommands(t *testing.T) {
	running := startHub(t, dataDir(t, ""))
	tests := []struct {
		name, dir string
		hub       *hub
	}{
		{"a hub runs", running.dir, running},
		{"no hub runs", filepath.Join(t.TempDir(), "fresh", "data"), nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			data := []string{"--data", test.dir}
			with := func(args ...string) []string { return append(args, data...) }

			var added struct{ Name, Type, Secret, Frame string }
			decode(t, done(t, "", with("device", "add", "esp01", "--type", "box", "--json")...), &added)
			want := fmt.Sprintf(`{"type":"auth","name":"esp01","password":%q}`, added.Secret)
			if added.Frame != want || len(added.Secret) < 16 {
				t.Fatalf("added was %+v; the frame should be %s", added, want)
			}
			if out := done(t, "1234\n", with("device", "add", "esp02", "--type", "station", "--password-stdin")...); !strings.Contains(out, `{"type":"auth","name":"esp02","password":"1234"}`) {
				t.Errorf("no frame to send is in %s", out)
			}
			failed(t, 1, with("device", "add", "esp01")...)
			failed(t, 2, with("device", "add", "no spaces")...)
			failed(t, 2, with("device", "add")...)
			failed(t, 2, with("device", "ad", "esp03")...)
			failed(t, 3, with("device", "show", "esp03")...)
			failed(t, 5, with("send", "esp01", "servo1", "90")...)
			failed(t, 3, with("send", "esp03", "servo1", "90")...)

			var list []device
			decode(t, done(t, "", with("device", "list", "--json")...), &list)
			if len(list) != 2 || list[0].Name != "esp01" || list[1].Type != "station" {
				t.Errorf("the list is %+v", list)
			}
			if out := done(t, "", with("device", "list")...); strings.Count(out, "\n") != 3 {
				t.Errorf("the table is\n%s", out)
			}
			done(t, "", with("device", "disable", "esp02")...)
			var shown struct{ Device device }
			decode(t, done(t, "", with("device", "show", "esp02", "--json")...), &shown)
			if !shown.Device.Disabled {
				t.Errorf("a disabled device is shown as %+v", shown.Device)
			}
			if test.hub != nil {
				test.hub.refuses("esp02", "1234")
			}
			done(t, "", with("device", "enable", "esp02")...)
			old := added.Secret
			decode(t, done(t, "", with("device", "rotate", "esp01", "--json")...), &added)
			if added.Secret == old || added.Secret == "" {
				t.Errorf("the new secret is %q, the old one %q", added.Secret, old)
			}
			if test.hub != nil {
				test.hub.refuses("esp01", old)
				test.hub.admits("esp01", added.Secret)
				test.hub.admits("esp02", "1234")
			}
			done(t, "", with("device", "rm", "esp01", "--yes")...)
			failed(t, 3, with("device", "show", "esp01")...)
			decode(t, done(t, "", with("device", "list", "--json")...), &list)
			if len(list) != 1 {
				t.Errorf("after the removal the list is %+v", list)
			}
		})
	}
}

// admits says that a device may log in.
func (h *hub) admits(name, secret string) {
	h.t.Helper()
	b := h.connect("127.0.0.1")
	b.text(fmt.Sprintf(`{"type":"auth","v":2,"name":%q,"password":%q}`, name, secret))
	if f := b.frame(); f.Type != "auth_ok" {
		h.t.Errorf("the login of %s was answered with %s", name, f.raw)
	}
	_ = b.conn.Close()
}

// refuses says that a device may not log in.
func (h *hub) refuses(name, secret string) {
	h.t.Helper()
	b := h.connect("127.0.0.1")
	b.text(fmt.Sprintf(`{"type":"auth","v":2,"name":%q,"password":%q}`, name, secret))
	if f := b.frame(); f.Error != "unauthorized" {
		h.t.Errorf("the login of %s was answered with %s", name, f.raw)
	}
	_ = b.conn.Close()
}

// TestManyDevices adds 5,000 devices from one CSV file to a running hub.
func TestManyDevices(t *testing.T) {
	t.Parallel()
	const n = 5000
	h := startHub(t, dataDir(t, ""))
	var file strings.Builder
	file.WriteString("name,type,password\n")
	for i := range n {
		password := fmt.Sprint(i)
		if i%2 == 0 {
			password = "" // a secret is generated
		}
		fmt.Fprintf(&file, "esp%04d,box,%s\n", i, password)
	}
	var report struct {
		Created, Kept, Refused int
		Entries                []struct{ Name, Outcome, Secret string }
	}
	decode(t, done(t, file.String(), "device", "add", "--from", "-", "--data", h.dir, "--json"), &report)
	if report.Created != n || len(report.Entries) != n {
		t.Fatalf("the report is %d created, %d kept, %d refused, %d entries", report.Created, report.Kept, report.Refused, len(report.Entries))
	}
	h.admits("esp4998", report.Entries[4998].Secret)
	h.admits("esp4999", "4999")
	var list []device
	decode(t, done(t, "", "device", "list", "--data", h.dir, "--json"), &list)
	if len(list) != n {
		t.Errorf("the list has %d devices", len(list))
	}
	decode(t, done(t, file.String(), "device", "add", "--from", "-", "--data", h.dir, "--json"), &report)
	if report.Kept != n {
		t.Errorf("a second time %d devices were kept", report.Kept)
	}
}

// TestSendWatchHistory sends commands to a device, watches it and reads its history.
func TestSendWatchHistory(t *testing.T) {
	t.Parallel()
	h := startHub(t, dataDir(t, ""))
	h.add("esp01", "v1")
	data := []string{"--data", h.dir}
	with := func(args ...string) []string { return append(args, data...) }

	watch := command(t, with("watch", "esp01", "--json")...)
	seen, write := io.Pipe()
	watch.cmd.Stdout = write
	watch.start()
	lines := make(chan string, 256)
	reading := make(chan struct{})
	go func() {
		defer close(reading)
		defer close(lines)
		for scan := bufio.NewScanner(seen); scan.Scan(); {
			lines <- scan.Text()
		}
	}()
	t.Cleanup(func() { // before the process is ended, so that nothing of it blocks
		_ = seen.Close()
		<-reading
	})

	// The watcher may come late: boards come and go until it has seen one.
	heard := func(what string, ok func(line string) bool) {
		t.Helper()
		awaitEvent(t, lines, what, ok)
	}
	awaitWatcher(t, h, lines)
	board, _ := h.login2("esp01", "")
	board.report()
	heard("telemetry came", func(line string) bool {
		return strings.Contains(line, `"kind":"telemetry"`) && strings.Contains(line, `{"type":"telemetry","seq":1,"n":1}`)
	})
	board.awaitSaved()
	for range 3 {
		board.report()
	}
	board.awaitSaved()

	answered := board.answer(`{"type":"result","id":%q,"ok":true,"value":90}`)
	var c sent
	var list []sent
	decode(t, done(t, "", with("send", "esp01", "servo1", "90", "--wait", "2m", "--json")...), &c)
	must(t, <-answered)
	if c.State != "succeeded" || string(c.Result) != "90" {
		t.Errorf("the command is %+v", c)
	}
	heard("the command has succeeded", func(line string) bool {
		return strings.Contains(line, `"kind":"command"`) && strings.Contains(line, c.ID) && strings.Contains(line, `"state":"succeeded"`)
	})
	answered = board.answer(`{"type":"result","id":%q,"ok":false,"error":"jammed"}`)
	if _, stderr, code := run(t, "", with("send", "esp01", "servo1", "-90", "--wait", "2m")...); code != 6 || !strings.Contains(stderr, "jammed") {
		t.Errorf("a command that failed ended with code %d: %s", code, stderr)
	}
	must(t, <-answered)
	decode(t, done(t, "", with("command", "list", "esp01", "--json")...), &list)
	if len(list) != 2 || list[0].State != "failed" || list[0].Error != "jammed" || list[1].ID != c.ID || list[1].State != "succeeded" {
		t.Errorf("the commands of the device are %+v", list)
	}
	out := strings.Split(done(t, "", with("command", "show", c.ID)...), "\n")
	for i, line := range []string{"ID", "Device", "Command", "Value", "State", "Made", "Made by", "Sent", "Delivered", "Ended", "Protocol", "Answer"} {
		if i >= len(out) || !strings.HasPrefix(out[i], line+" ") {
			t.Fatalf("the command is shown as %q; line %d should begin with %s", out, i+1, line)
		}
	}

	v1 := h.login1("v1")
	decode(t, done(t, "", with("send", "v1", "restart", "--wait", "--json")...), &c)
	if got := v1.frame().raw; got != `{"command": "restart"}` || c.State != "sent" {
		t.Errorf("version 1 got %s; the command is %+v", got, c)
	}

	out = strings.Split(strings.TrimSpace(done(t, "", with("history", "esp01", "--last", "2", "--json")...)), "\n")
	if len(out) != 2 || !strings.Contains(out[1], `{"type":"telemetry","seq":4,"n":4}`) {
		t.Errorf("the history is %q", out)
	}
	if out := done(t, "", with("history", "esp01", "--csv", "--fields", "n")...); strings.Count(out, "\n") != 5 || !strings.HasSuffix(out, ",4\n") {
		t.Errorf("the history as CSV is\n%s", out)
	}
	failed(t, 3, with("history", "nobody")...)
	failed(t, 2, with("history", "esp01", "--from", "yesteryear")...)
	failed(t, 5, "watch", "--data", filepath.Join(t.TempDir(), "none"))
	failed(t, 4, "device", "list", "--url", "http://"+h.addresses.HTTP, "--token", "wrong")
}

// answer waits for a command, acknowledges it and answers with reply, which has a place
// for the id; the channel tells when that is done.
func (b *board) answer(reply string) <-chan error {
	done := make(chan error, 1)
	go func() {
		for {
			payload, _, err := b.read()
			var f frame
			if err == nil {
				err = json.Unmarshal([]byte(payload), &f)
			}
			if err == nil && f.Type != "command" {
				continue
			}
			if err == nil {
				err = b.write(text, fmt.Appendf(nil, `{"type":"ack","id":%q}`, f.ID))
			}
			if err == nil {
				err = b.write(text, fmt.Appendf(nil, reply, f.ID))
			}
			done <- err
			return
		}
	}()
	return done
}

// awaitWatcher lets a device come and go until a watcher has seen it.
func awaitWatcher(t *testing.T, h *hub, lines <-chan string) {
	t.Helper()
	await(t, patience, "the watcher sees a device", func() bool {
		b, _ := h.login2("esp01", "")
		_ = b.conn.Close()
		h.awaitPresence("esp01", "offline")
		select {
		case _, open := <-lines:
			return open
		default:
			return false
		}
	})
}

// TestRemote speaks to the hub by its public port with a token.
func TestRemote(t *testing.T) {
	t.Parallel()
	h := startHub(t, dataDir(t, ""))
	h.add("esp01")
	var token struct{ Secret string }
	decode(t, done(t, "", "token", "create", "reader", "--scope", "read", "--data", h.dir, "--json"), &token)
	remote := []string{"--url", "http://" + h.addresses.HTTP, "--token", token.Secret}
	with := func(args ...string) []string { return append(args, remote...) }
	var list []device
	decode(t, done(t, "", with("device", "list", "--json")...), &list)
	if len(list) != 1 {
		t.Errorf("the list is %+v", list)
	}
	failed(t, 4, with("device", "add", "esp02")...)
	failed(t, 4, with("send", "esp01", "servo1", "90")...)
	done(t, "", "token", "revoke", "reader", "--data", h.dir)
	failed(t, 4, with("device", "list")...)
}
