package conformance_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/url"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"signalbox/internal/wire/packet"
)

// TestPythonPaho goes through all features with Eclipse Paho for Python.
func TestPythonPaho(t *testing.T) {
	t.Parallel()
	hub := theHub(t)
	for _, version := range []string{"4", "5"} {
		for _, transport := range []string{"tcp", "websockets"} {
			t.Run(version+"/"+transport, func(t *testing.T) {
				t.Parallel()
				device, secret := hub.addDevice(t)
				out, err := command(t, "/usr/bin/python3", filepath.Join("testdata", "paho_client.py"),
					hub.tcp, webHost(t), hub.user, hub.password, device, secret, version, transport).CombinedOutput()
				if err != nil {
					t.Errorf("%v\n%s", err, out)
				}
			})
		}
	}
}

func webHost(t *testing.T) string {
	t.Helper()
	u, err := url.Parse(theHub(t).ws)
	if err != nil {
		t.Fatal(err)
	}
	return u.Host
}

// command is a program that ends with the test, or after a while.
func command(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "PYTHONDONTWRITEBYTECODE=1", "HOME=" + t.TempDir()}
	cmd.WaitDelay = time.Second
	return cmd
}

// mosquitto runs mosquitto_pub or mosquitto_sub.
func mosquitto(t *testing.T, tool, version string, args ...string) *exec.Cmd {
	t.Helper()
	hub := theHub(t)
	host, port, err := net.SplitHostPort(hub.tcp)
	if err != nil {
		t.Fatal(err)
	}
	return command(t, tool, append([]string{"-h", host, "-p", port, "-u", hub.user, "-P", hub.password, "-V", version}, args...)...)
}

// TestMosquittoClients publishes with mosquitto_pub and subscribes with mosquitto_sub.
func TestMosquittoClients(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"311", "5"} {
		for qos := range 3 {
			t.Run(version+"/QoS "+strconv.Itoa(qos), func(t *testing.T) {
				t.Parallel()
				mosquittoPair(t, version, strconv.Itoa(qos))
			})
		}
		t.Run(version+"/will and retained", func(t *testing.T) {
			t.Parallel()
			mosquittoWill(t, version)
		})
		t.Run(version+"/offline queue", func(t *testing.T) {
			t.Parallel()
			id, topic := unique(), unique()
			sub := func(args ...string) ([]byte, error) {
				args = append([]string{"-i", id, "-c", "-q", "2", "-t", topic}, args...)
				if version == "5" {
					args = append(args, "-x", "600")
				}
				return mosquitto(t, "mosquitto_sub", version, args...).CombinedOutput()
			}
			if out, err := sub("-E"); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			lines := strings.Repeat("queued\n", 30)
			pub := mosquitto(t, "mosquitto_pub", version, "-t", topic, "-q", "2", "-l")
			pub.Stdin = strings.NewReader(lines)
			if out, err := pub.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if out, err := sub("-C", "30", "-W", "60"); err != nil || string(out) != lines {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	t.Run("5/properties", func(t *testing.T) {
		t.Parallel()
		topic := unique()
		publish(t, "5", "-t", topic, "-q", "1", "-r", "-m", "text", "-D", "publish", "user-property", "b", "2", "-D", "publish", "user-property", "a", "1",
			"-D", "publish", "content-type", "text/plain", "-D", "publish", "response-topic", "answer", "-D", "publish", "correlation-data", "c1")
		out, err := mosquitto(t, "mosquitto_sub", "5", "-t", topic, "-C", "1", "-W", "60", "-F", "%p|%C|%R|%D|%P|%r").CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || got != "text|text/plain|answer|c1|b:2 a:1|1" {
			t.Errorf("%v: %s", err, got)
		}
	})
}

func publish(t *testing.T, version string, args ...string) {
	t.Helper()
	if out, err := mosquitto(t, "mosquitto_pub", version, args...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// mosquittoPair sends lines from one client to the other.
func mosquittoPair(t *testing.T, version, qos string) {
	t.Helper()
	const n = 100
	topic := unique()
	from := login(t, packet.V311)
	from.publish(topic+"/begin", "begin", 1, retained) // the first message tells that it has subscribed
	sub := mosquitto(t, "mosquitto_sub", version, "-t", topic+"/#", "-q", qos, "-C", strconv.Itoa(n+1), "-W", "60", "-F", "%p")
	out := begin(t, sub)
	var lines strings.Builder
	for i := range n {
		lines.WriteString("line " + strconv.Itoa(i) + "\n")
	}
	pub := mosquitto(t, "mosquitto_pub", version, "-t", topic+"/lines", "-q", qos, "-l")
	pub.Stdin = strings.NewReader(lines.String())
	if text, err := pub.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	got, err := io.ReadAll(out)
	if err != nil || string(got) != lines.String() {
		t.Errorf("%v\n%s", err, got)
	}
	if err := sub.Wait(); err != nil {
		t.Error(err)
	}
	from.publish(topic+"/begin", "", 1, retained)
}

// begin starts a subscriber and waits for its first message.
func begin(t *testing.T, sub *exec.Cmd) *bufio.Reader {
	t.Helper()
	pipe, err := sub.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := sub.Start(); err != nil {
		t.Fatal(err)
	}
	out := bufio.NewReader(pipe)
	if line, err := out.ReadString('\n'); err != nil || line != "begin\n" {
		t.Fatalf("the subscriber's first line is %q: %v", line, err)
	}
	return out
}

// mosquittoWill kills a client that has a will, and reads it where it was retained.
func mosquittoWill(t *testing.T, version string) {
	t.Helper()
	topic := unique()
	publish(t, version, "-t", topic+"/begin", "-m", "begin", "-q", "1", "-r")
	doomed := mosquitto(t, "mosquitto_sub", version, "-t", topic+"/#", "-q", "1", "--will-topic", topic+"/will", "--will-payload", "gone", "--will-qos", "1", "--will-retain")
	begin(t, doomed)
	watcher := login(t, packet.V5)
	watcher.subscribe(topic+"/will", 1)
	if err := doomed.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = doomed.Wait() // it was killed
	watcher.take(topic+"/will", "gone", 1)
	out, err := mosquitto(t, "mosquitto_sub", version, "-t", topic+"/will", "-C", "1", "-W", "60", "-v").CombinedOutput()
	if got := strings.TrimSpace(string(out)); err != nil || got != topic+"/will gone" {
		t.Errorf("%v: %s", err, got)
	}
}
