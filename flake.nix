{
  description = "Slow work behind HTTP, offered twice: done while the client waits, or accepted and called back";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;

      # The images are for Linux; the binaries and the shell are also for a Mac.
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

      # --- Binaries ----------------------------------------------------------------------------------

      # What a build of a project reads and nothing else: an edit elsewhere rebuilds nothing.
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

      # A derivation in a project's sources with its locked crates at hand; the attributes say what it does.
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
            # The tests are checks of their own: who wants an image doesn't wait for them.
            doCheck = false;
          }
          // attributes
        );

      packageOf =
        pkgs: project:
        cargoDerivation pkgs project {
          preBuild = ''
            # The build's hook says --offline alone, and cargo would then mend a lock file that doesn't fit.
            cargo metadata --locked --offline --format-version 1 --manifest-path ${project}/Cargo.toml >/dev/null

            # A panic names a file of its crate. Where that lay during the build is nobody's business, and
            # differs wherever a sandbox doesn't give every build the same folder.
            for folder in "$NIX_BUILD_TOP" "$cargoDeps"; do
              flag=--remap-path-prefix=$folder/=
              export CARGO_ENCODED_RUSTFLAGS=''${CARGO_ENCODED_RUSTFLAGS:+$CARGO_ENCODED_RUSTFLAGS$'\x1f'}$flag
            done
          '';
          # The one that is called and, in nixpkgs, the one that it wraps.
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

      # --- Images ------------------------------------------------------------------------------------
      # scripts/pack-images.sh packs the same without Nix; `make test-images` holds both to the same words.

      user = "65532:65532";
      seconds = count: count * 1000 * 1000 * 1000;

      # Of `contents` and nothing else: no shell, no package manager, and a user who can write to /data alone.
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
          # Without the one file some C libraries ask a name server before they read /etc/hosts.
          fakeRootCommands = ''
            mkdir -p data etc
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

      # Docker asks the binary, for there is nothing else in the image that could ask.
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

      # Without systemd, whose library would bring all of it, a shell included. As nixpkgs' own build
      # has tested it; a stand-in may have nothing to override.
      redisOf =
        pkgs:
        ((pkgs.redis.override or (_: pkgs.redis)) { withSystemd = false; }).overrideAttrs (_: {
          doCheck = false;
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
          description = "Redis, the doorbell between the api and the worker";
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
          # `docker` is the user's own: it must fit the engine that runs.
          text = lib.concatMapStringsSep "\n" (image: "${image} | docker load") (lib.attrValues images);
        };

      # --- Checks ------------------------------------------------------------------------------------

      # What the stand-in for nixpkgs that our own tests use lacks: there the host's /usr/bin shows through.
      whereThere = pkgs: names: map (name: pkgs.${name}) (lib.filter (name: pkgs ? ${name}) names);

      cargoCheck =
        pkgs: name: project: tools: command:
        cargoDerivation pkgs project {
          pname = "${name}-${project}";
          src = sourceOf project [ ./clippy.toml ];
          nativeBuildInputs = tools;
          buildPhase = "cargo ${command}";
          installPhase = "mkdir $out";
        };

      cargoChecksOf =
        pkgs: project:
        let
          flags = "--offline --locked --manifest-path ${project}/Cargo.toml";
        in
        {
          "test-${project}" = cargoCheck pkgs "test" project [ pkgs.redis ] "test ${flags}";
          "clippy-${project}" =
            cargoCheck pkgs "clippy" project [ pkgs.clippy ]
              "clippy ${flags} --all-targets -- -D warnings";
        };

      # A script over files of the project, in their places.
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
        lib.concatMapAttrs (project: _: cargoChecksOf pkgs project) (lib.genAttrs projects lib.id)
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
            files = [ ./scripts/check-drift.sh ] ++ folders;
            script = "bash scripts/check-drift.sh";
          };
          shellcheck = {
            tools = whereThere pkgs [ "shellcheck" ];
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

      # What the make targets need.
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
          ++ whereThere pkgs [
            "cargo-deny"
            "docker-client"
            "shellcheck"
            "wrk"
          ];
        };
      });

      formatter = forEachSystem (pkgs: pkgs.nixfmt-tree);
    };
}
