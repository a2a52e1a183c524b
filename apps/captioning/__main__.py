from apps.captioning import main

if __name__ == "__main__":
    main()
