package agentapi

import (
	"strings"
	"testing"
)

func TestOfferChoose(t *testing.T) {
	o := &Offer{SandboxPaths: []string{"/bin", "/bin/sh=/opt/busybox", "/srv=/srv"}}
	for text, want := range map[string]string{
		"/bin":                 "/bin",
		"/bin=/bin":            "/bin",
		"/bin/sh":              "/bin/sh=/opt/busybox",
		"/bin/sh=/opt/busybox": "/bin/sh=/opt/busybox",
		"/srv":                 "/srv=/srv",
		"/srv=/srv":            "/srv=/srv",
		"/bin/sh=/etc/shadow":  "",
		"/bin=/":               "",
		"/bin/":                "",
		"/bin/..":              "",
		"/bin/sh=":             "",
		"/opt/busybox":         "",
		"/secret=/root":        "",
		"":                     "",
		"=":                    "",
	} {
		if got, ok := o.Choose(text); got != want || ok != (want != "") {
			t.Errorf("%q: got %q, %v; want %q", text, got, ok, want)
		}
	}
	if got, ok := (*Offer)(nil).Choose("/anything"); !ok || got != "/anything" {
		t.Error("an account of the head's own is limited")
	}
}

func TestOfferRefuses(t *testing.T) {
	o := &Offer{SandboxPaths: []string{"/bin"}, SubstituteURLs: []string{"https://ci.guix.gnu.org"}, MaxBuilds: 2}
	if got := o.Refuses([]string{"/bin"}, []string{"https://ci.guix.gnu.org/"}, 2); got != "" {
		t.Error(got)
	}
	if got := (*Offer)(nil).Refuses([]string{"/x"}, []string{"y"}, 100); got != "" {
		t.Error(got)
	}
	o.Unusable = map[string]string{"/bin": "it is gone"}
	if got := o.Refuses([]string{"/bin"}, nil, 1); !strings.Contains(got, `"/bin", which its owner offers, cannot be had: it is gone`) {
		t.Error(got)
	}
	got := o.Refuses([]string{"/a", "/b", "/c", "/d\x1b", "/e"}, []string{"file:///root"}, 3)
	for _, want := range []string{`"/a", "/b", "/c", 2 more`, `"file:///root"`, "parallel-builds", "sandbox-paths of agent.toml there"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q lacks %q", got, want)
		}
	}
}

func TestCheckSandboxPath(t *testing.T) {
	for text, good := range map[string]bool{
		"/bin": true, "/bin/sh=/opt/busybox": true, "/x=/": true,
		"": false, "bin": false, "/": false, "/=/x": false, "/a=": false, "=/a": false, "/a/": false, "/a=/b/../c": false, "/a//b": false, "/a=/b=/c": true,
	} {
		if err := CheckSandboxPath(text); (err == nil) != good {
			t.Errorf("%q: %v", text, err)
		}
	}
}
