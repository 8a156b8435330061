package machines

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFormatOf(t *testing.T) {
	tests := []struct {
		file, text string
		want       Format
	}{
		{"machines.toml", "(list)", TOML},
		{"/etc/guix/machines.scm", "[[machine]]", Guix},
		{"/etc/nix/machines", "[[machine]]", Nix},
		{"a.txt", "", TOML},
		{"a.txt", "# comment\n\n[[machine]]", TOML},
		{"a.txt", "machine = [] # ssh://u@h", TOML},
		{"a.txt", "\ufeff\n  (list)", Guix},
		{"a.txt", "'()", Guix},
		{"a.txt", "`(,a)", Guix},
		{"a.txt", ";; comment", Guix},
		{"a.txt", "#| comment |#", Guix},
		{"a.txt", "#!/usr/bin/guile\n!#", Guix},
		{"a.txt", "# comment\nssh://u@h x86_64-linux", Nix},
		{"a.txt", "ssh://u@h?ssh-key=/k x86_64-linux", Nix},
		{"a.txt", "h x86_64-linux", TOML},
		{"machines.conf", "ssh-ng://u@h", Nix},
	}
	for _, tt := range tests {
		if got := FormatOf(tt.file, []byte(tt.text)); got != tt.want {
			t.Errorf("%s with %q: got %s; want %s", tt.file, tt.text, got, tt.want)
		}
	}
}

func TestLoadReadsEveryFormat(t *testing.T) {
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDpf8W+vFz0WoC9lSKC0zs+o113ylen4DT8zwRxW2VZC"
	dir := t.TempDir()
	for name, text := range map[string]string{
		"m.toml":   "[[machine]]\nname = \"h\"\nuser = \"u\"\nsystem = \"x86_64-linux\"\n",
		"m.scm":    `(list (build-machine (name "h") (user "u") (systems '("x86_64-linux")) (host-key "` + key + `")))`,
		"machines": "ssh://u@h x86_64-linux\n",
	} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		all, err := Load(file)
		if err != nil || len(all) != 1 || all[0].Addr() != "h:22" || all[0].User != "u" {
			t.Errorf("%s: got %+v, %v", name, all, err)
		}
	}
	_, _, err := Read(t.Context(), filepath.Join(dir, "m.toml"), Options{Format: "scheme"})
	if err == nil || !strings.Contains(err.Error(), `no format "scheme"`) {
		t.Errorf("got %v", err)
	}
}

func TestNameMachines(t *testing.T) {
	all := []Machine{
		{Host: "a", Port: 22},
		{Host: "a", Port: 22},
		{Host: "a-2", Port: 22}, // a host of its own keeps its name
		{Host: "a", Port: 2222},
		{Host: "a", Port: 2222},
		{Host: "::1", Port: 22},
		{Host: "fe80::1%eth0", Port: 22},
		{Host: strings.Repeat("x", 253), Port: 22},
		{Host: strings.Repeat("x", 253), Port: 22},
	}
	nameMachines(all)
	want := []string{
		"a", "a-3", "a-2", "a-2222", "a-4", "1", "fe80--1-eth0",
		strings.Repeat("x", 247), strings.Repeat("x", 247) + "-2",
	}
	for i, m := range all {
		if m.Name != want[i] {
			t.Errorf("%s:%d: got %s; want %s", m.Host, m.Port, m.Name, want[i])
		}
	}
}
