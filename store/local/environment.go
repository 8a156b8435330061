package local

import (
	"os"
	"slices"
	"strconv"
)

// DefaultImpureEnvVars are the variables that Guix's own downloads ask for (leaked-env-vars
// in guix/download.scm, git-download.scm and the like), and the others that name a proxy.
var DefaultImpureEnvVars = []string{
	"http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy",
	"HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY", "NO_PROXY",
	"LC_ALL", "LC_MESSAGES", "LANG", "COLUMNS",
}

// environment returns the builder's environment, as guix-daemon makes it
// (DerivationGoal::startBuilder in libstore). Later assignments of a name win there.
func (b *build) environment() []string {
	top := b.folder.topInside()
	env := map[string]string{
		"PATH":            "/path-not-set",
		"HOME":            "/homeless-shelter",
		"NIX_STORE":       string(b.store.layout.dir),
		"NIX_BUILD_CORES": strconv.Itoa(b.req.Cores),
	}
	for _, v := range b.drv.Env {
		env[v.Name] = v.Value
	}
	for _, name := range []string{"NIX_BUILD_TOP", "TMPDIR", "TEMPDIR", "TMP", "TEMP", "PWD"} {
		env[name] = top
	}
	for _, name := range b.drv.ImpureEnvVars() {
		env[name] = ""
		if slices.Contains(b.store.opts.ImpureEnvVars, name) {
			env[name] = os.Getenv(name)
		}
	}
	list := make([]string, 0, len(env))
	for name, value := range env {
		list = append(list, name+"="+value)
	}
	slices.Sort(list)
	return list
}
