package coordinator

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
)

// logOf returns a build's log, or the error that there is none.
func logOf(t *testing.T, client *apiclient.Client, id string, query apiclient.LogQuery) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var b bytes.Buffer
	if err := client.LogOf(ctx, id, query, &b); err != nil {
		return err.Error()
	}
	tail, err := client.LogTailOf(ctx, id, query, 2)
	if err != nil || !bytes.Equal(tail, b.Bytes()[max(0, b.Len()-2):]) {
		t.Errorf("its tail: %q, %v", tail, err)
	}
	return b.String()
}

// TestLogOfAttempt reads the logs of all attempts of a build that was retried.
func TestLogOfAttempt(t *testing.T) {
	f := newFarm(t, nil, "m1", "m2")
	client, closeAll := f.serve(socketOf(t))
	defer closeAll()
	f.ready("m1", "m2")
	id := f.request(api.Request{Derivation: f.drv("one", "log=on-@ fail"), Retries: 1})[0]
	b := f.awaitState(id, api.Failed)
	if b.Attempt != 2 {
		t.Fatalf("attempts: %d", b.Attempt)
	}
	first := "m1"
	if b.Machine == "m1" {
		first = "m2"
	}
	for _, c := range []struct {
		query apiclient.LogQuery
		want  string
	}{
		{apiclient.LogQuery{}, "on-" + b.Machine + "\n"},
		{apiclient.LogQuery{Attempt: 1}, "on-" + first + "\n"},
		{apiclient.LogQuery{Attempt: 2, Follow: true}, "on-" + b.Machine + "\n"},
		{apiclient.LogQuery{Machine: first}, "on-" + first + "\n"},
		{apiclient.LogQuery{Machine: b.Machine, Offset: 3}, b.Machine + "\n"},
	} {
		query := c.query
		query.Follow = false
		if query.Offset == 0 {
			if got := logOf(t, client, id, query); got != c.want {
				t.Errorf("%+v: got %q, want %q", query, got, c.want)
			}
		}
		var log bytes.Buffer
		if err := client.LogOf(t.Context(), id, c.query, &log); err != nil || log.String() != c.want {
			t.Errorf("%+v: got %q, %v; want %q", c.query, log.String(), err, c.want)
		}
	}
	for want, query := range map[string]apiclient.LogQuery{
		"lines goes with neither":             {Lines: 1, Offset: 1},
		"has no attempt 3: the last one is 2": {Attempt: 3},
		"was not tried on a machine \"m7\"":   {Machine: "m7"},
		"attempt and machine: give one of":    {Attempt: 1, Machine: "m1"},
	} {
		if got := logOf(t, client, id, query); !strings.Contains(got, want) {
			t.Errorf("%+v: got %q, want %q", query, got, want)
		}
	}
}

// TestLogAsFile has parts of a log while it grows, and when it is complete.
func TestLogAsFile(t *testing.T) {
	f := newFarm(t, nil, "m1")
	client, closeAll := f.serve(socketOf(t))
	defer closeAll()
	id := f.request(api.Request{Derivation: f.drv("one", "log=abc hold log=d")})[0]
	r, w := io.Pipe()
	go func() { w.CloseWithError(client.LogOf(t.Context(), id, apiclient.LogQuery{Follow: true}, w)) }()
	if _, err := io.ReadFull(r, make([]byte, len("abc\n"))); err != nil {
		t.Fatal(err)
	}
	ask := func(method, want string, header ...string) {
		t.Helper()
		h := make(http.Header)
		for i := 0; i < len(header); i += 2 {
			h.Set(header[i], header[i+1])
		}
		resp, err := client.LogFile(t.Context(), method, id, apiclient.LogQuery{}, h)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		got := fmt.Sprintf("%d %q", resp.StatusCode, body)
		for _, name := range []string{"Content-Length", "Content-Range", "ETag", api.LogHeader} {
			if v := resp.Header.Get(name); v != "" {
				got += " " + strings.ReplaceAll(v, id, "ID")
			}
		}
		if resp.StatusCode == http.StatusRequestedRangeNotSatisfiable {
			got = strings.ReplaceAll(got, fmt.Sprintf("%q", body), "")
		}
		if got != want {
			t.Errorf("%s %q:\n got %s\nwant %s", method, header, got, want)
		}
	}
	ask(http.MethodGet, `200 "abc\n" 4 ID.1`)
	ask(http.MethodHead, `200 "" 4 ID.1`)
	ask(http.MethodGet, `206 "bc\n" 3 bytes 1-3/* ID.1`, "Range", "bytes=1-")
	ask(http.MethodGet, `206 "c\n" 2 bytes 2-3/* ID.1`, "Range", "bytes=-2")
	ask(http.MethodGet, `416  33 bytes */4 ID.1`, "Range", "bytes=4-")
	ask(http.MethodGet, `200 "abc\n" 4 ID.1`, "Range", "bytes=1-", "If-Range", `"ID.1"`)
	<-f.agents["m1"].held
	f.agents["m1"].release("one")
	if rest, err := io.ReadAll(r); err != nil || string(rest) != "d\n" {
		t.Errorf("what follows: %q, %v", rest, err)
	}
	f.awaitState(id, api.Succeeded)
	ask(http.MethodGet, `200 "abc\nd\n" 6 "ID.1" ID.1`)
	ask(http.MethodHead, `200 "" 6 "ID.1" ID.1`)
	ask(http.MethodGet, `206 "bc" 2 bytes 1-2/6 "ID.1" ID.1`, "Range", "bytes=1-2")
	ask(http.MethodHead, `206 "" 2 bytes 1-2/6 "ID.1" ID.1`, "Range", "bytes=1-2")
	ask(http.MethodGet, `206 "bc" 2 bytes 1-2/6 "ID.1" ID.1`, "Range", "bytes=1-2", "If-Range", `"`+id+`.1"`)
	ask(http.MethodGet, `200 "abc\nd\n" 6 "ID.1" ID.1`, "Range", "bytes=1-2", "If-Range", `"other"`)
	ask(http.MethodGet, `200 "abc\nd\n" 6 "ID.1" ID.1`, "Range", "bytes=1-2,4-5")
	ask(http.MethodGet, `304 "" "ID.1" ID.1`, "If-None-Match", `"`+id+`.1"`)
	ask(http.MethodGet, `416  33 bytes */6 ID.1`, "Range", "bytes=6-")
	none, err := client.LogFile(t.Context(), http.MethodGet, id, apiclient.LogQuery{Attempt: 2}, nil)
	if err == nil {
		none.Body.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "has no attempt 2") {
		t.Errorf("of another attempt: %v", err)
	}
}

// TestLastLinesOfLog reads the end of a log in lines, and what follows.
func TestLastLinesOfLog(t *testing.T) {
	f := newFarm(t, nil, "m1")
	client, closeAll := f.serve(socketOf(t))
	defer closeAll()
	id := f.request(api.Request{Derivation: f.drv("one", "log=a log=b log=c hold log=d")})[0]
	follow := func(query apiclient.LogQuery) io.Reader {
		query.Follow = true
		r, w := io.Pipe()
		go func() { w.CloseWithError(client.LogOf(t.Context(), id, query, w)) }()
		return r
	}
	read := func(r io.Reader, want string) {
		t.Helper()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(r, got); err != nil || string(got) != want {
			t.Fatalf("got %q, %v; want %q", got, err, want)
		}
	}
	all := follow(apiclient.LogQuery{})
	read(all, "a\nb\nc\n")
	last := follow(apiclient.LogQuery{Lines: 1})
	read(last, "c\n")
	<-f.agents["m1"].held
	f.agents["m1"].release("one")
	for _, r := range []io.Reader{all, last} {
		if rest, err := io.ReadAll(r); err != nil || string(rest) != "d\n" {
			t.Errorf("what follows: %q, %v", rest, err)
		}
	}
	f.awaitState(id, api.Succeeded)
	for lines, want := range map[int]string{1: "d\n", 2: "c\nd\n", 4: "a\nb\nc\nd\n", 99: "a\nb\nc\nd\n"} {
		if got := logOf(t, client, id, apiclient.LogQuery{Lines: lines}); got != want {
			t.Errorf("last %d lines: %q, want %q", lines, got, want)
		}
	}
}

// TestLogOfCheck reads what each machine wrote that built for a check, and has it pruned.
func TestLogOfCheck(t *testing.T) {
	f := newFarm(t, keepsState, "m1", "m2", "m3")
	client, closeAll := f.serve(socketOf(t))
	defer closeAll()
	drv := f.drv("one", "log=on-@ fail=m3")
	f.ready("m1", "m2", "m3")
	// The measure is not to be what fails.
	f.awaitState(f.request(api.Request{Derivation: drv, On: []string{"m1"}})[0], api.Succeeded)
	id := f.request(api.Request{Derivation: drv, Check: 3})[0]
	f.awaitState(id, api.Failed)
	for machine, want := range map[string]string{"": "on-m3\n", "m2": "on-m2\n", "m3": "on-m3\n", "m9": "was not tried on a machine"} {
		if got := logOf(t, client, id, apiclient.LogQuery{Machine: machine}); !strings.Contains(got, want) {
			t.Errorf("%q: got %q, want %q", machine, got, want)
		}
	}

	if got := logOf(t, client, id, apiclient.LogQuery{Attempt: 1}); !strings.Contains(got, "it has logs by machine") {
		t.Errorf("an attempt of a check: %q", got)
	}

	failed := f.request(api.Request{Derivation: f.drv("two", "log=on-@ timeout"), Check: 2})[0]
	b := f.awaitState(failed, api.TimedOut)
	if want := "on-" + b.Results[0].Machine + "\n"; logOf(t, client, failed, apiclient.LogQuery{}) != want {
		t.Errorf("the log of a check whose measure failed: want %q", want)
	}

	// What was in vain since the machine failed has a log too.
	vain := f.drv("vain", "log=on-@ machine=m2")
	f.awaitState(f.request(api.Request{Derivation: vain, On: []string{"m1"}})[0], api.Succeeded)
	f.awaitState(f.request(api.Request{Derivation: vain, Check: 2})[0], api.Succeeded)

	holds := f.request(api.Request{Derivation: f.drv("three", "log=on-@ hold"), Check: 2})[0]
	followed := make(chan string, 1)
	go func() { followed <- logOf(t, client, holds, apiclient.LogQuery{Follow: true}) }()
	f.releaseAll("three")
	f.awaitState(holds, api.Succeeded)
	if got := <-followed; !strings.HasPrefix(got, "on-m") {
		t.Errorf("followed: %q", got)
	}
	f.idle()
	f.hooksSawAll()

	if names := f.logFiles(); len(names) < 7 {
		t.Fatalf("there are logs %v", names)
	}
	dry, err := client.Prune(t.Context(), &api.Prune{OlderThan: 1e-6, DryRun: true})
	if err != nil {
		t.Fatal(err)
	}
	done, err := client.Prune(t.Context(), &api.Prune{OlderThan: 1e-6})
	if err != nil || done.Logs != dry.Logs {
		t.Errorf("pruned %+v, %v, after %+v", done, err, dry)
	}
	if names := f.logFiles(); len(names) > 0 {
		t.Errorf("logs are left: %v", names)
	}
}

// logFiles returns the names of all logs.
func (f *farm) logFiles() []string {
	names, err := filepath.Glob(filepath.Join(f.config.LogDir, "*", "*"))
	if err != nil {
		f.t.Fatal(err)
	}
	for _, name := range names {
		if info, err := os.Stat(name); err != nil || info.IsDir() {
			f.t.Errorf("%s: %v", name, err)
		}
	}
	return names
}
