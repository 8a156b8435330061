package sshtransport

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Names that Go's resolver doesn't know are asked of getent; here of one of the test's own.
func TestNames(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
		return file
	}
	var listening net.ListenConfig
	l, err := listening.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	asked := filepath.Join(dir, "asked")
	getent := write("getent", `#!/bin/sh
echo "$@" >> `+asked+`
case "$2" in
*.local) echo "not-an-address STREAM x"; echo "192.0.2.999 DGRAM"; echo "127.0.0.1     STREAM $2"; echo "127.0.0.1     DGRAM";;
*) exit 2;;
esac
`)
	mdns := write("mdns", "# hosts: files\npasswd: files\nhosts:  files mdns4_minimal [NOTFOUND=return] dns myhostname # comment\n")
	plain := write("plain", "hosts: files dns\n")
	for _, test := range []struct {
		name     string
		names    names
		addr     string
		asks, ok bool
	}{
		{"only getent knows", names{getent, mdns}, "precision.local:" + port, true, true},
		{"address", names{getent, mdns}, "127.0.0.1:" + port, false, true},
		{"both know", names{getent, mdns}, "localhost:" + port, true, true},
		{"files know", names{getent, plain}, "localhost:" + port, false, true},
		{"no nsswitch.conf", names{getent, dir + "/none"}, "localhost:" + port, false, true},
		{"no getent", names{dir + "/none", mdns}, "localhost:" + port, false, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			os.Remove(asked)
			conn, err := test.names.dial(t.Context(), test.addr)
			if (err == nil) != test.ok {
				t.Fatalf("got %v", err)
			}
			conn.Close()
			text, err := os.ReadFile(asked)
			host, _, _ := net.SplitHostPort(test.addr)
			if asks := err == nil; asks != test.asks || asks && !strings.Contains(string(text), "ahosts "+host+"\n") {
				t.Errorf("getent was asked %q", text)
			}
		})
	}
	for text, want := range map[string]bool{
		"hosts: files dns": false, "hosts: files resolve [!UNAVAIL=return] dns": true, "hosts: dns [!UNAVAIL=return] files": false,
		"hosts:\tfiles winbind": true, "#hosts: files mdns": false, "": false,
	} {
		if got := (names{nsswitch: write("n", text+"\n")}).hasOthers(); got != want {
			t.Errorf("%q: got %v", text, got)
		}
	}
}
