{
  description = "A job and webhook service for slow work, with a synchronous endpoint for comparison";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;

      # The images are for Linux only; the binaries and the dev shell also for macOS.
      systems = [
        "x86_64-linux"
        "aarch64-linux"
        "aarch64-darwin"
      ];
      forEachSystem = make: lib.genAttrs systems (system: make nixpkgs.legacyPackages.${system});
      forLinux = pkgs: lib.optionalAttrs pkgs.stdenv.hostPlatform.isLinux;

      programs = [
        "api"
        "worker"
        "loadgen"
      ];
      projects = [ "shared" ] ++ programs;
      folderOf = project: ./. + "/${project}";
      folders = map folderOf projects;
      manifestOf = project: (lib.importTOML (folderOf project + "/Cargo.toml")).package;

      # --- Binaries -------------------------------------------------------------------------------

      # Only the files that a project's build reads, so that an edit elsewhere rebuilds nothing.
      sourceOf =
        project: more:
        lib.fileset.toSource {
          root = ./.;
          fileset = lib.fileset.unions (
            [
              (folderOf project)
              ./shared
              ./.cargo/config.toml
            ]
            ++ more
          );
        };

      # A derivation with a project's sources and its locked crates; `attributes` say what it
      # builds.
      cargoDerivation =
        pkgs: project: attributes:
        pkgs.rustPlatform.buildRustPackage (
          {
            pname = (manifestOf project).name;
            inherit (manifestOf project) version;
            src = sourceOf project [ ];
            cargoRoot = project;
            buildAndTestSubdir = project;
            cargoLock.lockFile = folderOf project + "/Cargo.lock";
            # Tests are separate checks, so that building an image does not wait for them.
            doCheck = false;
          }
          // attributes
        );

      packageOf =
        pkgs: project:
        cargoDerivation pkgs project {
          # The images export traces.
          cargoBuildFlags = lib.optionals (project != "loadgen") [
            "--features"
            "traces"
          ];
          preBuild = ''
            # nixpkgs' build hook passes --offline but not --locked, so cargo would silently update
            # a lock file that does not match the manifest. This fails instead.
            cargo metadata --locked --offline --format-version 1 --manifest-path ${project}/Cargo.toml >/dev/null

            # Panic messages contain the path of their source file. The build folder is removed from
            # it, because it can differ between builds, which would then not be reproducible.
            for folder in "$NIX_BUILD_TOP" "$cargoDeps"; do
              flag=--remap-path-prefix=$folder/=
              export CARGO_ENCODED_RUSTFLAGS=''${CARGO_ENCODED_RUSTFLAGS:+$CARGO_ENCODED_RUSTFLAGS$'\x1f'}$flag
            done
          '';
          # The compiler, and in nixpkgs the compiler that it wraps.
          disallowedReferences = [
            pkgs.rustc
            (pkgs.rustc.unwrapped or pkgs.rustc)
          ];
          meta = {
            inherit (manifestOf project) description;
            license = [
              lib.licenses.mit
              lib.licenses.asl20
            ];
            mainProgram = "storm-${project}";
          };
        };

      # --- Images ---------------------------------------------------------------------------------
      # scripts/pack-images.sh builds the same images without Nix. `make test-images` tests that
      # both have the same configuration.

      user = "65532:65532";
      seconds = count: count * 1000 * 1000 * 1000;
      # The commit. With changes that are not committed, Nix before 2.17 knows none, and a folder
      # without .git has none.
      revision = self.rev or self.dirtyRev or "unknown";

      # An image of `contents` only: no shell, no package manager. Its user can write to /data only.
      imageOf =
        pkgs:
        {
          name,
          description,
          contents,
          config,
          labels ? { },
        }:
        pkgs.dockerTools.streamLayeredImage {
          name = "storm-${name}";
          tag = "latest";
          inherit contents;
          # Without nsswitch.conf, some C libraries query DNS before they read /etc/hosts.
          fakeRootCommands = ''
            mkdir -p data etc
            chmod 0700 data
            echo 'hosts: files dns' > etc/nsswitch.conf
            chown ${user} data
          '';
          config = config // {
            User = user;
            WorkingDir = "/data";
            Volumes."/data" = { };
            Labels = {
              "org.opencontainers.image.title" = "storm-${name}";
              "org.opencontainers.image.description" = description;
              "org.opencontainers.image.revision" = revision;
              "org.opencontainers.image.source" = (manifestOf "shared").repository;
            }
            // labels;
          };
        };

      programImageOf =
        pkgs: project: config:
        let
          inherit (manifestOf project) description version license;
        in
        imageOf pkgs {
          name = project;
          inherit description;
          labels = {
            "org.opencontainers.image.version" = version;
            "org.opencontainers.image.licenses" = license;
          };
          contents = [
            (packageOf pkgs project)
            pkgs.dockerTools.caCertificates
          ];
          config = config // {
            Entrypoint = [ "/bin/storm-${project}" ];
          };
        };

      # The program itself is the health check, because the image contains no other one.
      healthcheckOf = project: {
        Test = [
          "CMD"
          "/bin/storm-${project}"
          "healthcheck"
        ];
        Interval = seconds 5;
        Timeout = seconds 5;
        StartPeriod = seconds 15;
        Retries = 3;
      };

      # jemalloc has one output, and in its bin/ are two scripts that begin with #!/bin/sh. nixpkgs'
      # patchShebangs would point them at bash, and so bring bash into each image with jemalloc.
      # Before that, postInstall removes them.
      jemallocOf =
        pkgs:
        pkgs.jemalloc.overrideAttrs (old: {
          postInstall = (old.postInstall or "") + "\nrm -rf $out/bin\n";
          doCheck = false;
        });

      # Without systemd, whose library would add all of systemd and a shell to the image, and with a
      # jemalloc that adds none. The tests of both are skipped: nixpkgs has run them. A stand-in for
      # nixpkgs may have no `override`.
      redisOf =
        pkgs:
        let
          override = pkgs.redis.override or (_: pkgs.redis);
          redis = override {
            withSystemd = false;
            jemalloc = jemallocOf pkgs;
          };
        in
        redis.overrideAttrs (_: {
          doCheck = false;
          disallowedRequisites = existing pkgs [
            "bash"
            "bashNonInteractive"
          ];
        });

      imagesOf = pkgs: {
        image-api = programImageOf pkgs "api" {
          Env = [
            "API_ADDR=0.0.0.0:8000"
            "DB_URL=sqlite:/data/storm.db"
          ];
          ExposedPorts."8000/tcp" = { };
          Healthcheck = healthcheckOf "api";
        };
        image-worker = programImageOf pkgs "worker" {
          Env = [
            "DB_URL=sqlite:/data/storm.db"
            "WORKER_ADDR=0.0.0.0:9000"
          ];
          ExposedPorts."9000/tcp" = { };
          Healthcheck = healthcheckOf "worker";
        };
        image-loadgen = programImageOf pkgs "loadgen" { };
        image-redis = imageOf pkgs {
          name = "redis";
          description = "Redis, the notifier between the API and the workers";
          contents = [ (redisOf pkgs) ];
          config = {
            Cmd = [ "redis-server" ];
            Env = [ "PATH=/bin" ];
            ExposedPorts."6379/tcp" = { };
          };
        };
      };

      loaderOf =
        pkgs: images:
        pkgs.writeShellApplication {
          name = "load-images";
          # `docker` comes from the user's PATH, because it must match the running engine.
          text = lib.concatMapStringsSep "\n" (image: "${image} | docker load") (lib.attrValues images);
        };

      # --- Checks ---------------------------------------------------------------------------------

      # The packages of `names` that exist. The stand-in for nixpkgs that our tests use lacks
      # some; there the programs of the host's /usr/bin are visible.
      existing = pkgs: names: map (name: pkgs.${name}) (lib.filter (name: pkgs ? ${name}) names);

      # The tests of a project. They need Linux: they read /proc, and listen on 127.0.0.2. Clippy is
      # left to `make lint`: it would compile every crate once more, and the lints of a newer one in
      # nixpkgs would fail the check of unchanged sources.
      cargoCheckOf =
        pkgs: project:
        let
          inherit (pkgs.stdenv.hostPlatform) isLinux;
          command = if isLinux then "test" else "check --all-targets";
        in
        cargoDerivation pkgs project {
          pname = "check-${project}";
          nativeBuildInputs = lib.optionals isLinux ([ pkgs.redis ] ++ existing pkgs [ "sqlite" ]);
          buildPhase = "cargo ${command} --offline --locked --manifest-path ${project}/Cargo.toml";
          installPhase = "mkdir $out";
        };

      # The tests of the engine for PostgreSQL, with a server of their own. Those through a
      # PgBouncer are left to `make test`.
      postgresCheckOf =
        pkgs:
        cargoDerivation pkgs "shared" {
          pname = "check-postgres";
          src = sourceOf "shared" [ ./scripts ];
          nativeBuildInputs = [
            pkgs.postgresql
            pkgs.redis
          ];
          buildPhase = ''
            source scripts/postgres.sh
            trap stop_postgres EXIT
            start_postgres without
            cargo test --offline --locked --manifest-path shared/Cargo.toml --features postgres \
              --lib --test it postgres -- --skip pooler
          '';
          installPhase = "mkdir $out";
        };

      # A check that runs a script on some files of the project.
      sourceCheck =
        pkgs: name:
        {
          tools,
          files,
          script,
        }:
        let
          source = lib.fileset.toSource {
            root = ./.;
            fileset = lib.fileset.unions files;
          };
        in
        pkgs.runCommand name { nativeBuildInputs = tools; } ''
          cd ${source}
          ${script}
          mkdir $out
        '';

      checksOf =
        pkgs:
        builtins.listToAttrs (
          map (project: lib.nameValuePair "check-${project}" (cargoCheckOf pkgs project)) projects
        )
        // lib.optionalAttrs (pkgs.stdenv.hostPlatform.isLinux && pkgs ? postgresql) {
          check-postgres = postgresCheckOf pkgs;
        }
        // lib.mapAttrs (sourceCheck pkgs) {
          format = {
            tools = [
              pkgs.cargo
              pkgs.rustfmt
            ];
            files = [ ./rustfmt.toml ] ++ folders;
            script = ''
              for project in ${toString projects}; do
                cargo fmt --check --manifest-path $project/Cargo.toml
              done
            '';
          };
          drift = {
            tools = [ ];
            files = [
              ./scripts/check-drift.sh
              ./scripts/lib.sh
            ]
            ++ folders;
            script = "bash scripts/check-drift.sh";
          };
          shellcheck = {
            tools = existing pkgs [ "shellcheck" ];
            files = [
              ./.ci
              ./scripts
            ];
            script = "shellcheck --external-sources .ci/run scripts/*.sh scripts/tests/*.sh scripts/tests/*/*.sh";
          };
        };
    in
    {
      packages = forEachSystem (
        pkgs:
        lib.genAttrs programs (packageOf pkgs)
        // forLinux pkgs (
          let
            images = imagesOf pkgs;
          in
          images // { load-images = loaderOf pkgs images; }
        )
      );

      # nix run .#api
      apps = lib.mapAttrs (
        _: packages:
        lib.mapAttrs (_: package: {
          type = "app";
          program = lib.getExe package;
        }) (lib.filterAttrs (name: _: lib.elem name (programs ++ [ "load-images" ])) packages)
      ) self.packages;

      checks = forEachSystem checksOf;

      # The tools that the make targets need.
      devShells = forEachSystem (pkgs: {
        default = pkgs.mkShell {
          packages = [
            pkgs.cargo
            pkgs.clippy
            pkgs.docker-compose
            pkgs.gnumake
            pkgs.redis
            pkgs.rust-analyzer
            pkgs.rustc
            pkgs.rustfmt
          ]
          ++ existing pkgs [
            "cargo-deny"
            "docker-client"
            "postgresql"
            "shellcheck"
            "sqlite"
            "wrk"
          ];
        };
      });

      formatter = forEachSystem (pkgs: pkgs.nixfmt-tree);
    };
}
