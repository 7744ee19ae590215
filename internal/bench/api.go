package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"signalbox/internal/sim"
)

// api is what a measurement asks of a hub.
type api struct {
	base, token string
	client      *http.Client
}

// requestPatience bounds a request that is not a command.
const requestPatience = 2 * time.Minute

func newAPI(base, token string) *api {
	t := &http.Transport{MaxIdleConnsPerHost: 512, DisableCompression: true}
	return &api{base: strings.TrimSuffix(base, "/"), token: token, client: &http.Client{Transport: t}}
}

// newSocketAPI speaks over the hub's own socket, where no credential is needed.
func newSocketAPI(path string) *api {
	t := &http.Transport{DisableCompression: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}
	return &api{base: "http://signalbox", client: &http.Client{Transport: t}}
}

func (a *api) request(ctx context.Context, method, path string, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, a.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if len(body) > 0 {
		req.Header.Set("Content-Type", "application/json")
	}
	if a.token != "" {
		req.Header.Set("Authorization", "Bearer "+a.token)
	}
	return a.client.Do(req)
}

// do asks and gives the whole answer; a status other than 2xx is an error.
func (a *api) do(ctx context.Context, method, path string, body []byte) (answer []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestPatience)
	defer cancel()
	resp, err := a.request(ctx, method, path, body)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	answer, err = io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	if resp.StatusCode/100 != 2 {
		return nil, fmt.Errorf("%s %s: the hub answered %s: %s", method, path, resp.Status, strings.TrimSpace(string(answer)))
	}
	return answer, nil
}

// addDevices adds n devices named prefix-0, prefix-1… with secrets that the hub generates.
func (a *api) addDevices(ctx context.Context, prefix string, n int) ([]sim.Credential, error) {
	type device struct {
		Name string `json:"name"`
		Type string `json:"type"`
	}
	list := make([]device, n)
	for i := range list {
		list[i] = device{Name: prefix + "-" + strconv.Itoa(i), Type: "box"}
	}
	body, err := json.Marshal(list)
	if err != nil {
		return nil, err
	}
	answer, err := a.do(ctx, http.MethodPost, "/api/v1/devices/import", body)
	if err != nil {
		return nil, err
	}
	var report struct {
		Entries []struct {
			Name    string `json:"name"`
			Secret  string `json:"secret"`
			Message string `json:"message"`
		} `json:"entries"`
	}
	if err := json.Unmarshal(answer, &report); err != nil {
		return nil, fmt.Errorf("the answer to the import of devices: %w", err)
	}
	credentials := make([]sim.Credential, 0, n)
	for _, d := range report.Entries {
		if d.Secret == "" {
			return nil, fmt.Errorf("the hub did not add the device %s: %s", d.Name, d.Message)
		}
		credentials = append(credentials, sim.Credential{Name: d.Name, Secret: d.Secret})
	}
	if len(credentials) != n {
		return nil, fmt.Errorf("the hub added %d of %d devices", len(credentials), n)
	}
	return credentials, nil
}

// removeDevices removes what addDevices has added.
func (a *api) removeDevices(ctx context.Context, list []sim.Credential) error {
	for _, c := range list {
		if _, err := a.do(ctx, http.MethodDelete, "/api/v1/devices/"+url.PathEscape(c.Name), nil); err != nil {
			return err
		}
	}
	return nil
}

// makeToken makes a token; the hub shows its secret once.
func (a *api) makeToken(ctx context.Context, scope string) (string, error) {
	answer, err := a.do(ctx, http.MethodPost, "/api/v1/tokens", fmt.Appendf(nil, `{"name":"bench","scope":%q}`, scope))
	if err != nil {
		return "", err
	}
	if v := gjson.GetBytes(answer, "secret"); v.Str != "" {
		return v.Str, nil
	}
	return "", errors.New("the hub's answer to a new token holds no secret")
}

// collected is what the hub says after a garbage collection on request.
type collected struct {
	NumGC         uint32      `json:"NumGC"`
	PauseNs       [256]uint64 `json:"PauseNs"`
	GCCPUFraction float64     `json:"GCCPUFraction"`
	HeapAlloc     uint64      `json:"HeapAlloc"`
}

// collect has the hub collect its garbage and give memory back.
func (a *api) collect(ctx context.Context) (collected, error) {
	var c collected
	answer, err := a.do(ctx, http.MethodPost, "/debug/gc", nil)
	if err == nil {
		err = json.Unmarshal(answer, &c)
	}
	if err != nil {
		return c, fmt.Errorf("ask the hub for a garbage collection (only its own socket offers it): %w", err)
	}
	return c, nil
}

// metric reads a metric, the sum over its labels; 0 when it is not there.
func (a *api) metric(ctx context.Context, name string) (float64, error) {
	answer, err := a.do(ctx, http.MethodGet, "/metrics", nil)
	if err != nil {
		return 0, err
	}
	return sumMetric(answer, name)
}

// sumMetric adds up the samples of one metric in the Prometheus text format.
func sumMetric(text []byte, name string) (total float64, err error) {
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		rest, ok := strings.CutPrefix(lines.Text(), name)
		if !ok || rest == "" || (rest[0] != ' ' && rest[0] != '{') {
			continue
		}
		if i := strings.LastIndexByte(rest, '}'); i >= 0 {
			rest = rest[i+1:]
		}
		fields := strings.Fields(rest)
		if len(fields) == 0 {
			continue
		}
		v, err := strconv.ParseFloat(fields[0], 64)
		if err != nil {
			return 0, fmt.Errorf("the metric %s: %w", name, err)
		}
		total += v
	}
	return total, lines.Err()
}

// telemetry reads the whole history of a device, oldest first, and gives each object to see.
func (a *api) telemetry(ctx context.Context, device string, see func(object gjson.Result) error) error {
	cursor := ""
	for {
		query := url.Values{"order": {"asc"}, "limit": {"10000"}}
		if cursor != "" {
			query.Set("cursor", cursor)
		}
		answer, err := a.do(ctx, http.MethodGet, "/api/v1/devices/"+url.PathEscape(device)+"/telemetry?"+query.Encode(), nil)
		if err != nil {
			return err
		}
		page := gjson.ParseBytes(answer)
		items := page.Get("items")
		if !items.IsArray() {
			return fmt.Errorf("a page of the history of %s has no array items", device)
		}
		for _, item := range items.Array() {
			if err := see(item.Get("object")); err != nil {
				return err
			}
		}
		next := page.Get("next").Str
		if next == "" || len(items.Array()) == 0 {
			return nil
		}
		if next == cursor {
			return fmt.Errorf("the history of %s does not come to an end: the cursor stays %q", device, cursor)
		}
		cursor = next
	}
}
