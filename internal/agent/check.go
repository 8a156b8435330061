package agent

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/store"
	"lighter/store/derivation"
)

// Limits on what is asked of an agent. They are far above what a coordinator sends.
const (
	maxRequest = 64 << 20 // bytes of JSON
	maxAttempt = 1 << 30
	maxOutputs = 1 << 10
	maxSandbox = 1 << 10
	maxServers = 1 << 8
	maxCores   = 1 << 16
	maxSeconds = api.Seconds(10 * 365 * 24 * 3600)
	maxIDLen   = 64
)

// validID reports whether a build's id is one that can be the name of a folder: 1 to 64
// letters, digits, dots, dashes and underscores, the first one no dot.
func validID(id string) bool {
	if id == "" || len(id) > maxIDLen || id[0] == '.' {
		return false
	}
	for i := range len(id) {
		c := id[i]
		if ('a' <= c && c <= 'z') || ('A' <= c && c <= 'Z') || ('0' <= c && c <= '9') || c == '.' || c == '-' || c == '_' {
			continue
		}
		return false
	}
	return true
}

// validKey reports whether a text is a valid id, behind the name of a head if it is one's.
func validKey(text string) bool {
	name, id, ok := strings.Cut(text, headMark)
	if !ok {
		return validID(text)
	}
	h := Head{Name: name}
	return name != "" && h.check() == nil && validID(id)
}

// check returns the derivation that a request to build has the text of, or nil if it
// has none, or says what is wrong with the request.
func (a *Agent) check(req *agentapi.BuildRequest) (*derivation.Derivation, error) {
	dir := a.opts.Store.Dir()
	var wrong error
	switch {
	case req.Attempt < 1 || req.Attempt > maxAttempt:
		wrong = fmt.Errorf("attempt %d is not in 1 to %d", req.Attempt, maxAttempt)
	case !req.Derivation.IsDerivation():
		wrong = fmt.Errorf("derivation %q is not the name of one", req.Derivation)
	case len(req.Outputs) == 0 || len(req.Outputs) > maxOutputs:
		wrong = fmt.Errorf("%d outputs are not 1 to %d", len(req.Outputs), maxOutputs)
	case len(req.SandboxPaths) > maxSandbox:
		wrong = fmt.Errorf("%d sandbox paths are more than %d", len(req.SandboxPaths), maxSandbox)
	case len(req.SubstituteURLs) > maxServers:
		wrong = fmt.Errorf("%d substitute URLs are more than %d", len(req.SubstituteURLs), maxServers)
	case slices.ContainsFunc(req.SubstituteURLs, badURL):
		wrong = fmt.Errorf("substitute URLs %q: want http, https and file, without spaces", req.SubstituteURLs)
	case req.Cores < 0 || req.Cores > maxCores:
		wrong = fmt.Errorf("cores %d is not in 0 to %d", req.Cores, maxCores)
	case req.MemoryLimit != 0 && req.MemoryLimit < agentapi.MinMemoryLimit:
		wrong = fmt.Errorf("memoryLimit %d is neither 0 nor %d at least", req.MemoryLimit, int64(agentapi.MinMemoryLimit))
	case !(req.Timeout >= 0 && req.Timeout <= maxSeconds):
		wrong = fmt.Errorf("timeout %v is not in 0 to %v seconds", req.Timeout, maxSeconds)
	case !(req.MaxSilentTime >= 0 && req.MaxSilentTime <= maxSeconds):
		wrong = fmt.Errorf("maxSilentTime %v is not in 0 to %v seconds", req.MaxSilentTime, maxSeconds)
	default:
		wrong = checkPaths(dir, slices.Concat([]store.Path{req.Derivation}, req.Outputs, req.Inputs))
	}
	if wrong != nil {
		return nil, badRequest(wrong)
	}
	if len(req.Text) == 0 {
		return nil, nil
	}
	drv, err := derivation.Parse(dir, req.Text)
	if err != nil {
		return nil, badRequest(fmt.Errorf("text of %s: %w", req.Derivation, err))
	}
	for _, output := range drv.Outputs {
		if !slices.Contains(req.Outputs, output.Path) {
			return nil, badRequest(fmt.Errorf("outputs lack %s, which %s makes", output.Path, req.Derivation))
		}
	}
	return drv, nil
}

// badURL reports whether a text cannot be the address of a substitute server.
func badURL(text string) bool {
	u, err := url.Parse(text)
	return err != nil || u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "file" || strings.ContainsAny(text, " \t\r\n")
}

// checkPaths says which one is not an item of this store.
func checkPaths(dir store.Dir, paths []store.Path) error {
	for _, p := range paths {
		if p == "" {
			return fmt.Errorf("an item without a name")
		}
		if p.Dir() != dir {
			return fmt.Errorf("%s is not in the store %s", p, dir)
		}
	}
	return nil
}
