package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"lighter/internal/cli/command"
	"lighter/store/narinfo"
)

// servePublish runs "lighter publish" and returns the URL that it prints, and what ends it.
func servePublish(t *testing.T, dir, listen string) (url string, end func() (int, string)) {
	t.Helper()
	r, w := io.Pipe()
	signals := make(chan os.Signal, 1)
	code := make(chan int, 1)
	var said strings.Builder
	go func() {
		code <- Run(context.Background(), []string{"publish", "--dir", dir, "--listen", listen, "--log-level", "debug"},
			command.Process{Out: w, Err: &said, Getenv: func(string) string { return "" }, Signals: signals})
		w.Close()
	}()
	url, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		t.Fatalf("%v, code %d: %s", err, <-code, &said)
	}
	return strings.TrimSpace(url), func() (int, string) {
		signals <- syscall.SIGTERM
		return <-code, said.String()
	}
}

func publishedFolder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, narinfo.CacheInfoName), []byte("StoreDir: /gnu/store\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestPublishServes(t *testing.T) {
	url, end := servePublish(t, publishedFolder(t), "127.0.0.1:0")
	resp, err := http.Get(url + "/nix-cache-info")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, err := io.ReadAll(resp.Body); err != nil || string(text) != "StoreDir: /gnu/store\n" {
		t.Errorf("got %q, %v", text, err)
	}
	code, said := end()
	if code != command.ExitDone || !strings.Contains(said, "path=/nix-cache-info status=200") {
		t.Errorf("code %d: %s", code, said)
	}
}

func TestPublishOnSocket(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	dir := publishedFolder(t)
	url, end := servePublish(t, dir, socket)
	if url != "unix://"+socket {
		t.Errorf("got URL %s", url)
	}
	var second strings.Builder
	code := Run(t.Context(), []string{"publish", "--dir", dir, "--listen", socket}, command.Process{Out: io.Discard, Err: &second, Getenv: func(string) string { return "" }})
	if code != command.ExitFailure || !strings.Contains(second.String(), "listens on it already") {
		t.Errorf("a second one: code %d: %s", code, second.String())
	}
	client := http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
		DisableKeepAlives: true,
	}}
	resp, err := client.Get("http://socket/nothing")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound {
		t.Errorf("got %s", resp.Status)
	}
	if code, said := end(); code != command.ExitDone {
		t.Errorf("code %d: %s", code, said)
	}
	if _, err := os.Stat(socket); !os.IsNotExist(err) {
		t.Errorf("the socket is left behind: %v", err)
	}
}

// TestPublishAddKey has a key of [publish]: the folder of the hook and what is added by hand are signed alike.
func TestPublishAddKey(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "f")
	settings := fmt.Sprintf("[publish]\nkey = %q\n", filepath.Join(dir, "own.sec"))
	if err := errors.Join(os.WriteFile(file, []byte("x"), 0o600), os.WriteFile(filepath.Join(dir, "lighter.toml"), []byte(settings), 0o600)); err != nil {
		t.Fatal(err)
	}
	getenv := func(name string) string {
		return map[string]string{"HOME": dir, "LIGHTER_CONFIG": dir, "LIGHTER_STATE": dir, "LIGHTER_STORE": "local"}[name]
	}
	lighter := func(args ...string) string {
		t.Helper()
		var out, said strings.Builder
		if code := Run(t.Context(), args, command.Process{Out: &out, Err: &said, Getenv: getenv}); code != command.ExitDone {
			t.Fatalf("%q: code %d: %s", args, code, said.String())
		}
		return strings.TrimSpace(out.String())
	}
	lighter("key", "generate", filepath.Join(dir, "own"))
	lighter("publish", "add", lighter("store", "add", file), "--to", filepath.Join(dir, "to"))
	own, err := os.ReadFile(filepath.Join(dir, "own.pub"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "to", "signing-key.pub")); err != nil || string(got) != string(own) {
		t.Errorf("signed with the key\n%s%v, want\n%s", got, err, own)
	}
}
