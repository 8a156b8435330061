package machinetest

import (
	"fmt"
	"slices"

	"lighter/internal/agentapi"
	"lighter/internal/version"
	"lighter/machines"
	"lighter/nar/signature"
	"lighter/store"
)

// Head is what machines must fit.
type Head struct {
	Dir       store.Dir // of its store
	StoreKind string    // machines.StoreLocal, machines.StoreDaemon or ""
	// Hint are the flags, each with a blank behind it, with which commands find the head's
	// coordinator where they would not without.
	Hint string
	// PublicKey is the one with which the head signs; nil if it is not known. KeyFile is its file.
	PublicKey *signature.PublicKey
	KeyFile   string
}

// Unfit says, by what a machine's agent says of it, why it gets no builds; empty if it does. That keys are
// the reason makes it untrusted. What it signs must be accepted by acl, unless that is nil.
func (h Head) Unfit(m *machines.Machine, info *agentapi.Machine, acl *signature.ACL) (why string, untrusted bool) {
	if why = h.unable(m, info); why != "" {
		return why, false
	}
	why = h.untrusted(m, info, acl)
	return why, why != ""
}

// unable is about what has nothing to do with keys.
func (h Head) unable(m *machines.Machine, info *agentapi.Machine) string {
	if problem := protocolProblem(info); problem != "" {
		return problem
	}
	if problem := h.dirProblem(info); problem != "" {
		return problem
	}
	if info.BuildProblem != "" {
		return "it cannot build: " + info.BuildProblem
	}
	if refused := info.Offer.Refuses(m.SandboxPaths, m.SubstituteURLs, m.ParallelBuilds); refused != "" {
		return refused
	}
	return ""
}

func (h Head) untrusted(m *machines.Machine, info *agentapi.Machine, acl *signature.ACL) string {
	if problem, fix := h.machineKeyProblem(info, acl, m.Name); fix != "" {
		return problem + "; authorize it with: " + fix
	} else if problem != "" {
		return problem
	}
	if problem := h.keyProblem(m, info); problem != "" {
		return problem + "; " + AuthorizeHead(m.Name, info.StoreKind)
	}
	return ""
}

func protocolProblem(info *agentapi.Machine) string {
	if info.Protocol == agentapi.Protocol {
		return ""
	}
	return fmt.Sprintf("its agent %s speaks protocol %d, this lighter %s speaks %d", info.Version, info.Protocol, version.Version, agentapi.Protocol)
}

func (h Head) dirProblem(info *agentapi.Machine) string {
	if info.StoreDir == h.Dir {
		return ""
	}
	return fmt.Sprintf("its store is %s, the head's is %s", info.StoreDir, h.Dir)
}

// machineKeyProblem says why what a machine signs is not accepted by the head.
func (h Head) machineKeyProblem(info *agentapi.Machine, acl *signature.ACL, name string) (problem, fix string) {
	if acl == nil {
		return "", ""
	}
	key, err := signature.ParsePublicKey([]byte(info.PublicKey))
	switch {
	case err != nil:
		return fmt.Sprintf("its store's public key cannot be read: %v", err), ""
	case !acl.Authorized(key):
		return fmt.Sprintf("the head does not accept its key %s", key.Fingerprint()), AuthorizeMachine(name, h.Hint)
	}
	return "", ""
}

// keyProblem says that a machine does not accept what the head signs, as far as it says.
func (h Head) keyProblem(m *machines.Machine, info *agentapi.Machine) string {
	if h.PublicKey == nil || info.AcceptsKeys == nil || m.Local || slices.Contains(info.AcceptsKeys, h.PublicKey.Fingerprint()) {
		return ""
	}
	return fmt.Sprintf("it does not accept the head's key %s", h.PublicKey.Fingerprint())
}
