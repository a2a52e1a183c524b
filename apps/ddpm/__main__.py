from apps.ddpm import main

if __name__ == "__main__":
    main()
