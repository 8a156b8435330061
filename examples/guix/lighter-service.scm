;;; Lighter as guix-daemon's build hook, on Guix System. docs/guix.md explains it.
;;;
;;; In the system's configuration, with the sources of lighter in /src/lighter, where
;;; "make build agents" was run:
;;;
;;;   (use-modules (gnu) (lighter-package) (lighter-service))
;;;
;;;   (operating-system
;;;     …
;;;     (services
;;;      (cons (service lighter-service-type
;;;                     (lighter-configuration
;;;                      (lighter lighter)
;;;                      (machines (local-file "machines.toml"))))
;;;            (modify-services %base-services
;;;              (guix-service-type config => (offload-to-lighter config))))))
;;;
;;; guix system reconfigure -L /src/lighter/examples/guix config.scm

(define-module (lighter-service)
  #:use-module (gnu services)
  #:use-module (gnu services base)
  #:use-module (gnu services shepherd)
  #:use-module (gnu system accounts)
  #:use-module (gnu system shadow)
  #:use-module ((gnu packages admin) #:select (shadow))
  #:use-module (guix gexp)
  #:use-module (guix records)
  #:export (lighter-configuration
            lighter-configuration?
            lighter-service-type
            offload-to-lighter))

(define-record-type* <lighter-configuration>
  lighter-configuration make-lighter-configuration
  lighter-configuration?
  (lighter  lighter-configuration-lighter)  ;package
  (machines lighter-configuration-machines  ;file-like, a machines.toml, or #f:
            (default #f))                   ;then /etc/guix/machines.scm counts
  (settings lighter-configuration-settings  ;file-like, a lighter.toml, or #f
            (default #f))
  ;; Who is in this group may speak to the coordinator. Where guix-daemon is no root,
  ;; (privileged? #f), it must be "guix-daemon".
  (group    lighter-configuration-group
            (default "lighter"))
  (options  lighter-configuration-options   ;more of "lighter coordinator"
            (default '())))

(define %state "/var/lib/lighter")

(define (lighter-accounts config)
  (list (user-group (name "lighter") (system? #t))
        (user-account
         (name "lighter")
         (group "lighter")
         (system? #t)
         (comment "Coordinator of lighter")
         (home-directory %state)
         (create-home-directory? #f)        ;the activation makes it
         (shell (file-append shadow "/sbin/nologin")))))

(define (lighter-activation config)
  (match-record config <lighter-configuration> (group)
    #~(begin
        (use-modules (guix build utils))
        (let ((user (getpwnam "lighter")))
          (mkdir-p #$%state)
          (chown #$%state (passwd:uid user) (group:gid (getgrnam #$group)))
          (chmod #$%state #o750)))))

(define (lighter-etc config)
  (match-record config <lighter-configuration> (machines settings)
    (append
     (if settings
         `(("lighter/lighter.toml" ,settings))
         '())
     (if machines
         `(("lighter/machines.toml" ,machines))
         '()))))

(define (lighter-shepherd-services config)
  (match-record config <lighter-configuration> (lighter group options)
    (list (shepherd-service
           (documentation "Run lighter's coordinator, which has builds done on other machines.")
           (provision '(lighter-coordinator))
           (requirement '(user-processes networking guix-daemon))
           (start
            #~(make-forkexec-constructor
               (list #$(file-append lighter "/bin/lighter") "coordinator"
                     "--store=guix-daemon" #$@options)
               #:user "lighter" #:group #$group
               #:directory #$%state
               #:environment-variables
               (list #$(string-append "HOME=" %state)
                     #$(string-append "LIGHTER_STATE=" %state)
                     "LIGHTER_CONFIG=/etc/lighter"
                     "PATH=/run/current-system/profile/bin")
               #:log-file "/var/log/lighter.log"))
           (stop #~(make-kill-destructor))))))

(define lighter-service-type
  (service-type
   (name 'lighter)
   (description "Run lighter's coordinator, to which guix-daemon offloads.")
   (extensions
    (list (service-extension account-service-type lighter-accounts)
          (service-extension activation-service-type lighter-activation)
          (service-extension etc-service-type lighter-etc)
          (service-extension shepherd-root-service-type lighter-shepherd-services)
          ;; For the command line, and for offload-to-lighter.
          (service-extension profile-service-type
                             (compose list lighter-configuration-lighter))))))

(define (offload-to-lighter config)
  "Return CONFIG, a <guix-configuration>, with lighter's build hook."
  (guix-configuration
   (inherit config)
   (environment
    ;; The real guix is then /run/current-system/profile/bin/guix.
    (cons* "GUIX=/run/current-system/profile/libexec/lighter/lighter-guix"
           (guix-configuration-environment config)))))
